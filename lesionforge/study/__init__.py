"""The study: one YAML of axes becomes jobs of our verbs, run by Snakemake on this machine or a cluster."""
