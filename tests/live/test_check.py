"""`oncegate check --connect`: what it says of real brokers and a real Redis."""

import harness
import pytest

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="there is no proxy to ask")


def check(tmp_path, upstream, tls="", store="memory:"):
    config = tmp_path / "oncegate.toml"
    config.write_text(
        f"[proxy]\nupstream = [{harness.toml_string(upstream)}]\n{tls}[store]\nurl = {harness.toml_string(store)}\n"
    )
    done = harness.run_cli("check", config, "--connect", "--json")
    found = harness.json.loads(done.stdout)["connect"]
    return done.returncode, [(one["verdict"], one["message"]) for one in found]


def trusted(certificates):
    return f"[proxy.upstream_tls]\nca = {harness.toml_string(certificates.ca)}\n"


def test_the_broker_is_named_with_and_without_tls(broker, certificates, tmp_path):
    code, [(verdict, said)] = check(tmp_path, f"amqp://127.0.0.1:{broker.port}")
    assert (code, verdict) == (0, "ok") and said.startswith("RabbitMQ ") and said.endswith(" speaks AMQP 0-9-1"), said
    code, [(verdict, said)] = check(tmp_path, f"amqps://localhost:{broker.tls_port}", trusted(certificates))
    assert (code, verdict) == (0, "ok") and said.startswith("RabbitMQ ") and " over TLS 1." in said, said


def test_each_tls_mistake_has_its_remedy(broker, certificates, tmp_path):
    mistakes = [
        (f"amqps://localhost:{broker.tls_port}", "", "proxy.upstream_tls.ca"),
        (f"amqps://localhost:{broker.port}", trusted(certificates), "Nothing speaks TLS there"),
        (f"amqp://localhost:{broker.tls_port}", "", "it speaks TLS. Write amqps://"),
    ]
    for upstream, tls, remedy in mistakes:
        code, [(verdict, said)] = check(tmp_path, upstream, tls)
        assert (code, verdict) == (69, "failed") and remedy in said, (upstream, said)


def test_the_store_is_asked_what_it_is_and_for_a_lock(broker, workspace, tmp_path):
    upstream = f"amqp://127.0.0.1:{broker.port}"
    server = harness.Redis(workspace)
    try:
        server.start()
        server.client.config_set("maxmemory-policy", "noeviction")
        code, [_, (verdict, said)] = check(tmp_path, upstream, store=server.url)
        assert (code, verdict) == (0, "ok") and said.startswith("Redis "), said
        server.client.config_set("maxmemory-policy", "allkeys-lru")
        code, [_, _, (verdict, said)] = check(tmp_path, upstream, store=server.url)
        assert (code, verdict) == (0, "warning") and "set noeviction" in said, said
        server.client.config_set("maxmemory-policy", "noeviction")

        users = {
            "noinfo": ["+@all", "-info"],
            "noscripts": ["+@all", "-evalsha", "-eval"],
        }
        for name, rights in users.items():
            server.client.execute_command("ACL", "SETUSER", name, "on", ">secret", "~*", "&*", *rights)
        found = {name: check(tmp_path, upstream, store=server.url.replace("//", f"//{name}:secret@")) for name in users}
        code, [_, (verdict, said)] = found["noinfo"]
        assert (code, verdict) == (0, "warning") and "run INFO" in said, said
        code, [_, _, (verdict, said)] = found["noscripts"]
        assert (code, verdict) == (69, "failed") and "a lock cannot be asked for" in said and "EVALSHA" in said, said

        code, [_, (verdict, said)] = check(tmp_path, upstream, store=server.url.replace("//", "//noinfo:wrong@"))
        assert (code, verdict) == (69, "failed") and "Write user and password" in said, said
        server.client.execute_command("REPLICAOF", "127.0.0.1", str(harness.free_port()))
        code, found = check(tmp_path, upstream, store=server.url)
        assert code == 69 and ("failed", True) in [(verdict, "role slave" in said) for verdict, said in found], found
    finally:
        server.stop()
