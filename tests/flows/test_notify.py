"""Notifications through a block of Prefect's: sent whole, and never what a run fails of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret

from flows.notify import tell
from flows.settings import CorrectSettings
from tests.flows.webhook import Webhook


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as started:
        yield started


def settings(block: str) -> CorrectSettings:
    return CorrectSettings(model_name="m", notify=block)


def test_a_notification_is_sent_through_the_block_that_is_named(webhook: Webhook) -> None:
    webhook.save("ops")
    assert tell(settings("custom-webhook/ops"), "version 2: promoted", "By ann: fine.")
    assert webhook.heard == ["m: version 2: promoted / By ann: fine."]
    assert not tell(settings(""), "version 3: promoted", "By ann: fine.")
    assert len(webhook.heard) == 1


class Diary(NotificationBlock):
    """A user's own kind of block, with a method as Prefect declares it."""

    file: Path

    async def notify(self, body: str, subject: str | None = None) -> None:
        self.file.write_text(f"{subject} / {body}")


def test_a_users_own_kind_of_block_is_taken(tmp_path: Path) -> None:
    Diary(file=tmp_path / "diary").save("mine", overwrite=True)
    assert tell(settings("diary/mine"), "rolled back", "By ann.")
    assert (tmp_path / "diary").read_text() == "m: rolled back / By ann."


def test_one_that_fails_is_a_warning_without_the_secret_address(
    webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.status = 500
    webhook.save("down")
    Secret(value="hidden").save("no-service", overwrite=True)
    CustomWebhookNotificationBlock(name="n", url="http://127.0.0.1:1/hidden").save("gone", overwrite=True)
    for block, why in (
        ("custom-webhook/down", "failed with HTTPStatusError"),
        ("custom-webhook/gone", "failed with ConnectError"),
        ("custom-webhook/missing", "is not in Prefect"),
        ("secret/no-service", "failed with TypeError"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert not tell(settings(block), "rolled back", "By ann.")
        assert caplog.messages == [f"nobody was told `m: rolled back`: the block {block} {why}"]
        assert "hidden" not in caplog.text


def test_a_block_is_named_by_kind_and_name() -> None:
    with pytest.raises(ValueError, match="pattern"):
        settings("ops")
