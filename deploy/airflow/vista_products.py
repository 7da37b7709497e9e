"""A DAG of Airflow 3 that runs vista every night on a Ray cluster: put it into the folder of DAGs.

`ray job submit` needs the package `ray[default]` where tasks run, the address of the cluster in RAY_ADDRESS, and
RAY_AUTH_TOKEN if the cluster asks for a token. A task that is cleared, retried or run by hand does only what is left.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    "vista_products",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
):
    BashOperator(
        task_id="embed",
        bash_command="exec ray job submit --submission-id vista-{{ ts_nodash }}-{{ ti.try_number }} -- "
        "vista embed --config /etc/vista/products.toml --device cuda",
        execution_timeout=timedelta(hours=8),
        append_env=True,
    )
