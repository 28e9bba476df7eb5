"""A Redis that is not on this host's socket: over TLS, behind Sentinel, and in a cluster."""

import asyncio
import shutil
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from mailagent.adapters.ledger import RedisLedger
from mailagent.adapters.redis import RedisJobs, connect
from mailagent.core.errors import ConfigError, TemporaryError
from mailagent.core.values import JobId
from mailagent.ports import Jobs
from tests.fakes.jobs import a_job, composed, sent
from tests.integration.test_redis_losses import a_server, on
from tests.listening import free_port


async def one_mail(jobs: Jobs, name: str) -> None:
    """All the way, with every kind of command that there is."""
    assert await jobs.accept(a_job(name, name), None) == "new"
    turn = await jobs.claim("turns", 0)
    assert turn
    await jobs.hand_over(turn, composed(turn.job))
    delivery = await jobs.claim("delivery", 0)
    assert delivery
    await jobs.finish(delivery, sent(delivery.job))
    assert await jobs.claim("turns", 0.01) is None
    assert await jobs.repair() == 0
    assert await jobs.check() == []


def certificate(directory: Path) -> tuple[Path, Path]:
    """A key and a certificate for this host, which is its own authority."""
    key, made = directory / "key.pem", directory / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(made), "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return key, made


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes the certificate")
async def test_over_tls_only_the_authority_that_is_named_is_believed(short_path: Path) -> None:
    key, made = certificate(short_path)
    port = free_port()
    tls = [
        "--tls-port",
        str(port),
        "--tls-cert-file",
        str(made),
        "--tls-key-file",
        str(key),
        "--tls-auth-clients",
        "no",
    ]
    async with a_server(short_path / "redis", *tls):
        client, _ = await connect(f"rediss://127.0.0.1:{port}/?ssl_ca_certs={made}")
        async with client:
            await one_mail(on(client), "j1")
        with pytest.raises(TemporaryError, match="CERTIFICATE_VERIFY_FAILED"):
            await connect(f"rediss://127.0.0.1:{port}/")


async def test_sentinel_names_the_master_also_after_it_changed(short_path: Path) -> None:
    async with a_server(short_path / "one") as one, a_server(short_path / "two") as two:
        async with Redis.from_url(two.url) as replica:
            await replica.replicaof("127.0.0.1", str(one.port))
        settings = short_path / "sentinel.conf"
        settings.write_text(
            f"sentinel monitor mail 127.0.0.1 {one.port} 1\n"
            "sentinel down-after-milliseconds mail 500\nsentinel failover-timeout mail 5000\n"
        )
        async with a_server(short_path / "sentinel", sentinel=settings) as sentinel:
            url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/mail"
            client, _ = await connect(url)
            async with client:
                jobs = on(client)
                await one_mail(jobs, "j1")
                async with Redis.from_url(sentinel.url, decode_responses=True) as watch, asyncio.timeout(60):
                    while not (await known(watch))["num-slaves"]:
                        await asyncio.sleep(0.05)
                    await client.wait(1, 0)
                    one.process.kill()
                    while (await known(watch))["port"] != two.port:
                        await asyncio.sleep(0.05)
                async with asyncio.timeout(60):
                    while await accepted(jobs, "j2") is None:
                        await asyncio.sleep(0.05)
                assert await jobs.find("j1")
                assert await jobs.find("j2")
            with pytest.raises(TemporaryError):
                await connect(url.replace("/mail", "/another"))


async def known(sentinel: Redis) -> dict[str, Any]:
    """What the sentinel knows of the master."""
    found = await sentinel.sentinel_master("mail")
    assert isinstance(found, dict)
    return found


async def accepted(jobs: Jobs, name: str) -> str | None:
    try:
        return await jobs.accept(a_job(name, name), None)
    except TemporaryError:
        return None


async def test_a_cluster_keeps_a_queue_on_one_of_its_nodes(short_path: Path) -> None:
    async with AsyncExitStack() as stack:
        settings = ("--cluster-enabled", "yes", "--cluster-port")
        nodes = [
            await stack.enter_async_context(a_server(short_path / f"node{number}", *settings, str(free_port())))
            for number in range(3)
        ]
        clients = [await stack.enter_async_context(Redis.from_url(node.url)) for node in nodes]
        for number, client in enumerate(clients):
            first, last = 5461 * number, 5461 * number + (5460 if number < 2 else 5461)
            await client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)  # type: ignore[no-untyped-call]
            bus = (await clients[0].config_get("cluster-port"))["cluster-port"]
            await client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port, bus)  # type: ignore[no-untyped-call]
        async with asyncio.timeout(60):
            for client in clients:
                while (await client.cluster("INFO"))["cluster_state"] != "ok":
                    await asyncio.sleep(0.05)
        cluster, _ = await connect(f"redis+cluster://127.0.0.1:1,127.0.0.1:{nodes[0].port}")
        stack.push_async_callback(cluster.aclose)
        jobs = [RedisJobs(cluster, owner="a", lease_seconds=60, retention_seconds=60, prefix=f"{{{n}}}") for n in "abc"]
        for queue in jobs:
            await one_mail(queue, "j1")
        await RedisLedger(cluster).took([("a@example.org", JobId("j1"))], 1.0)
        assert (await RedisLedger(cluster).spent(["a@example.org"], 1.0))["a@example.org"].mails == 1
        assert min([await client.dbsize() for client in clients]) > 0


async def test_a_scheme_that_nobody_knows_is_a_fault_of_the_settings() -> None:
    with pytest.raises(ConfigError, match="not valid"):
        await connect("redis+wings://127.0.0.1:1/mail")
    with pytest.raises(ConfigError, match="not valid"):
        await connect("redis+sentinel://127.0.0.1/mail")
