"""What `mendflow up` tells its Prefect server, on a real one."""

from __future__ import annotations

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import AutomationCore, EventTrigger
from prefect.events.actions import DoNothing
from prefect.settings import get_current_settings

from flows.machine import DEPLOYMENTS
from flows.registration import POOL, deployments_of, drop_left_out, drop_other_schedules, make_pool


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


def test_what_a_file_leaves_out_is_removed_and_nothing_of_a_users():
    api = str(get_current_settings().api.url)
    make_pool(api)
    before, after = (
        yaml.safe_dump({"deployments": [{"name": name, "entrypoint": f"flows.{name}"} for name in names]})
        for names in (("stays", "goes", "taken over", "moved"), ("stays",))
    )
    event = EventTrigger(posture="Reactive", expect={"model.error.flagged"}, threshold=1, within=1)
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("left out")
        made = {}
        for name, entrypoint, pool in (
            ("stays", "flows.stays", POOL),
            ("goes", "flows.goes", POOL),
            # Under the same names, and not what was registered.
            ("taken over", "mine.flow", POOL),
            ("moved", "flows.moved", None),
            ("somebody else's", "flows.goes", POOL),
        ):
            made[name] = client.create_deployment(flow, name, work_pool_name=pool, entrypoint=entrypoint)
            client.create_automation(
                AutomationCore(
                    name=name,
                    trigger=event,
                    actions=[DoNothing()],
                    owner_resource=f"prefect.deployment.{made[name]}",
                )
            )
        assert drop_left_out(before, before, api) == []
        assert drop_left_out(before, after, api) == ["goes"]
        assert drop_left_out(before, after, api) == []
        assert {one.name for one in client.read_deployments() if one.id in made.values()} == set(made) - {
            "goes"
        }
        assert {one.name for one in client.read_automations()} >= set(made) - {"goes"}
        assert not client.read_automations_by_name("goes")
