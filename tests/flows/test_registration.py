"""What `mendflow up` tells its Prefect server, on a real one."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import get_current_settings

from flows.machine import DEPLOYMENTS
from flows.registration import POOL, deployments_of, drop_other_schedules, make_pool


def test_what_the_file_does_not_schedule_any_more_is_scheduled_no_more():
    api = str(get_current_settings().api.url)
    make_pool(api)
    nightly, other = (
        DeploymentScheduleCreate(schedule=CronSchedule(cron="0 3 * * *"), slug=slug)
        for slug in ("nightly", "other")
    )
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("scheduled")
        made = {
            name: client.create_deployment(flow, name, work_pool_name=POOL, schedules=[nightly, other])
            for name in ("correct", "somebody else's")
        }

        def slugs(name: str) -> set[str | None]:
            return {one.slug for one in client.read_deployment(made[name]).schedules}

        drop_other_schedules(deployments_of(DEPLOYMENTS, "m"), api)
        assert slugs("correct") == {"nightly"}
        drop_other_schedules(deployments_of(DEPLOYMENTS, ""), api)
        assert slugs("correct") == set()
        assert slugs("somebody else's") == {"nightly", "other"}
