"""How results are made and used: the command line, the pipeline and its copies, fetching data, photographs."""
