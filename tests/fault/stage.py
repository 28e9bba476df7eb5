"""A world in which one conversation after the other is held, each with one thing going wrong in it."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from mailagent.adapters.redis_server import PrivateRedis
from mailagent.commands.store import jobs_of
from mailagent.demo.rules import RulesModel
from mailagent.demo.steps import Block
from tests.fault import leftovers
from tests.fault.checker import Asked, read
from tests.fault.daemon import ASKED, answer_to
from tests.fault.failpoints import POLLS, Plan, Script
from tests.fault.points import MAY_REPEAT, SELDOM, Fault, Point, once
from tests.fault.proxy import Act, Proxy, relaying
from tests.fault.sink import sinking
from tests.fault.world import DOMAIN, DOVECOT, LOOK, World, a_place, dial, host, load, settings_of, share

LEASE = 2.0
RUN_SECONDS = 200.0


@dataclass(frozen=True, slots=True)
class Case:
    """One run."""

    point: Point
    fault: Fault
    real: bool = False
    """With a sandbox and the CLI in it."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of it."""

    case: Case
    reached: bool
    sending: bool
    """Whether the fault met a reply on its way to the mail server, so that nobody can know whether it arrived."""
    mails: int
    replies: int
    repeats: int
    faults: tuple[str, ...]
    leftovers: tuple[str, ...]
    seconds: float

    def good(self) -> bool:
        """Whether every promise was kept. A daemon that stands still while it sends goes on sending when it wakes up,
        whoever has sent meanwhile: no lease reaches as far as the mail server."""
        known = self.case.point.number == MAY_REPEAT or self.sending
        clean = self.reached and not self.faults and not self.leftovers
        return clean and self.replies == self.mails and (known or not self.repeats)


class AskingModel(RulesModel):
    """Runs one command in each turn, then answers; a test may `meddle` with the request of a number: False cuts it."""

    meddle: tuple[int, Act] | None = None

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        if self.meddle and self.meddle[0] == len(self.requests) + 1:
            (_, act), self.meddle = self.meddle, None
            if not await act() and request.transport:
                request.transport.abort()
        return await super()._messages(request)

    def _answer(self, body: Any) -> Sequence[Block]:
        last = body["messages"][-1]["content"]
        if isinstance(last, list) and any(block.get("type") == "tool_result" for block in last):
            prompts = [text for each in body["messages"] if ASKED.search(text := json.dumps(each))]
            return [{"type": "text", "text": answer_to(prompts[-1])}]
        command = {"command": "head -c 9 in/data.csv > work/seen"}
        return [{"type": "tool_use", "id": f"toolu_{len(self.requests)}", "name": "Bash", "input": command}]


@dataclass
class Injury:
    """What goes wrong in one run, and the hands that mend it."""

    case: Case
    plan: Plan
    world: World
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    async def strike(self) -> bool:
        """A peer has come to its moment; an error is then a cut connection."""
        self.happened.set()
        if self.case.fault == "kill":
            self.world.hosts[0].kill()
        if self.case.fault == "hang":
            self.world.hosts[0].freeze()
        return self.case.fault in ("kill", "hang")

    async def mend(self) -> None:
        """Once it has happened: let another daemon take over from one that hangs, and wake that one up after its lease;
        a dead one is started again by its supervisor."""
        world, (first, *others) = self.world, self.world.hosts
        lives = first.lives
        while not (self.happened.is_set() or world.script.fired(self.plan)):
            await asyncio.sleep(LOOK)
        if self.case.fault == "kill":
            await world.until(lambda: first.lives > lives, "the daemon is not started again")
        if self.case.fault == "hang":
            await world.until(first.frozen, "the daemon does not hang")
            for each in others:
                each.thaw()
            await asyncio.sleep(1.5 * LEASE)
            first.thaw()
        self.happened.set()


class Stage:
    """One conversation is two mails of one sender and one of another."""

    def __init__(self, world: World, model: AskingModel, mailbox: Proxy) -> None:
        self.world = world
        self._model = model
        self._mailbox = mailbox
        self._runs = 0
        self._left: set[str] = set()
        self._bad = 0

    async def record(self) -> list[Point]:
        """The points that a clean conversation meets."""
        plan = self._plan()
        await self._converse()
        counts: dict[str, int] = {}
        for call, when, nth in self.world.script.reached(plan):
            if call in SELDOM:
                continue
            where = f"{when} {call}"
            counts[where] = 1 if once(where) else max(nth, counts.get(where, 0))
        counts |= {f"before {call}": counts[f"after {call}"] for call in POLLS}
        return [Point(where, nth) for where, most in counts.items() for nth in range(1, most + 1)]

    async def _uncertain(self, since: int) -> bool:
        """Whether the daemon itself found it uncertain that a reply arrived."""
        async with jobs_of(self.world.settings) as jobs:
            found = [await jobs.find(mail.message_id) for mail in self.world.asked[since:]]
        return any(stamp.name == "uncertain" for job in found if job for stamp in job.history)

    async def run(self, case: Case) -> Row:
        """One conversation with this fault in it."""
        began, before = time.monotonic(), len(self.world.asked)
        injury = Injury(case, self._plan(case), self.world)
        self._meddle(case, injury.strike)
        mending = asyncio.create_task(injury.mend())
        wrong = []
        try:
            async with asyncio.timeout(RUN_SECONDS):
                await self._converse()
                await self.world.until(lambda: injury.happened.is_set() or mending.done(), "the point is not reached")
                await mending
                await self.world.hosts[0].up()
                await self.world.quiet()  # again: there may be more when a frozen daemon wakes up
        except (AssertionError, TimeoutError) as error:
            wrong.append(f"stuck: {error or 'for too long'}\n{self.world.hosts[0].log()}")
        finally:
            mending.cancel()
            await self._calm()
        verdict = self.world.verdict(self.world.asked[before:])
        wrong += [*verdict.faults(), *(["a job is dead"] if await self._bad_news() else [])]
        left = await self.world.leftovers(self._left)
        self._left.update(left)
        return Row(
            case,
            injury.happened.is_set(),
            await self._uncertain(before),
            verdict.mails,
            verdict.replies,
            len(verdict.repeats),
            tuple(wrong),
            tuple(left),
            time.monotonic() - began,
        )

    async def _bad_news(self) -> bool:
        """Whether one more job ended badly."""
        before, self._bad = self._bad, await self.world.ended_badly()
        return self._bad > before

    def _plan(self, case: Case | None = None) -> Plan:
        self._runs += 1
        plan = Plan(f"run{self._runs}")
        if case and not case.point.peer:
            when, call = case.point.where.split()
            plan = Plan(plan.id, call, case.point.nth, when, case.fault)
        self.world.script.write(plan)
        return plan

    async def _converse(self) -> None:
        thread = 2 * self._runs
        reply = await self._ask(Asked(thread, 1, f"a{thread}@{DOMAIN}"), "")
        await self._ask(Asked(thread + 1, 1, f"b{thread}@{DOMAIN}"), "")
        await self._ask(Asked(thread, 2, f"a{thread}@{DOMAIN}"), reply)

    async def _ask(self, mail: Asked, answers: str) -> str:
        """Send a mail and wait until it is dealt with, so that a fault meets one mail alone; returns its reply's id."""
        world = self.world
        await world.send(mail, answers={mail.name: answers})
        await world.until(lambda: not world.verdict([mail]).lost, f"no answer to {mail.name}")
        await world.quiet()
        replies = [read(each) for each in world.sink.history if each.recipient == mail.sender]
        return next(each.message_id for each in replies if mail.name in each.names)

    def _meddle(self, case: Case, act: Act) -> None:
        """Set the trap where the moment is a peer's."""
        match case.point.where:
            case "during FETCH":
                self._mailbox.trap = b"BODY.PEEK[]", 300, act
            case "mid turn":
                self._model.meddle = len(self._model.requests) + 2 * case.point.nth, act
            case where if case.point.peer:
                self.world.sink.meddle = where, case.point.nth - 1, act
            case _:
                pass

    async def _calm(self) -> None:
        """The first daemon works, the others stand still, and nothing is planned, for whatever life of a daemon."""
        first, *others = self.world.hosts
        self._plan()
        first.thaw()
        await first.up()
        for each in others:
            each.freeze()
        self._mailbox.trap = self._model.meddle = self.world.sink.meddle = None


@asynccontextmanager
async def stage(*, hosts: int, real: bool) -> AsyncIterator[Stage]:
    """One host with a private Redis, or several with one Redis, of which all but the first stand still; without `real`
    their agent is a light one."""
    from tests.integration.dovecot import _running  # not above: it brings pytest, which runs as another user at once

    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(a_place())
        sink = await stack.enter_async_context(sinking())
        model = await stack.enter_async_context(AskingModel())
        stack.enter_context(leftovers.adopting())
        dovecot = stack.enter_context(_running(DOVECOT))
        mailbox = await stack.enter_async_context(relaying(dial(dovecot.imap_port)))
        store = PrivateRedis(place / "store", place / "store")
        if hosts > 1:
            await store.start()
        stack.push_async_callback(store.stop)
        script = Script(place)
        script.write(Plan("start"))
        ports = {"imap_port": mailbox.port, "smtp_port": sink.port, "model_url": model.url}
        more = f'[redis]\nurl = "{store.url}"\n' if hosts > 1 else ""
        places = [place / str(number) for number in range(hosts)]
        texts = [settings_of(each, lease=LEASE, more=more, **ports) for each in places]
        share(place, places)
        daemons = [host(each, place, text, None if real else 0.0) for each, text in zip(places, texts, strict=True)]
        known, groups = set(leftovers.children(os.getpid())), frozenset(leftovers.cgroups())
        world = World(place, sink, dovecot.imap_port, script, daemons, load(texts[0]), known, groups)
        for each in daemons:
            stack.push_async_callback(each.stop)
            await each.start()
        for each in daemons[1:]:
            each.freeze()
        yield Stage(world, model, mailbox)
