"""Where the jobs run: a cluster on this machine, and files for Databricks, Kubernetes, Airflow and cron."""
