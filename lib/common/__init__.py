"""What every study uses: data, quality, intervals, parameters, files, claims, records, figures."""
