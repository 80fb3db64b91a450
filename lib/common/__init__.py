"""What every study uses: data, quality, intervals, parameters, files, weights, claims, records, tables, figures."""
