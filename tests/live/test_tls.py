"""TLS towards clients and towards the broker."""

import socket
import ssl

import harness
import pytest
import wire
from wire import Basic

RULES = '[[rule]]\nname = "add"\ntask = ["live.add", "watched.*"]\nunique = "until_finished"\n'


def context(certificates, client=False):
    made = ssl.create_default_context(cafile=str(certificates.ca))
    if client:
        made.load_cert_chain(certificates.client_cert, certificates.client_key)
    return made


def connect(port, vhost, tls):
    client = wire.Raw(port, wrap=lambda plain: tls.wrap_socket(plain, server_hostname="localhost"))
    return client.handshake(vhost)


def listening(gates, broker, certificates, store, extra="", **options):
    if harness.DIRECT:
        return harness.Bare(broker.tls_port)
    port = harness.free_port()
    proxy = f"[proxy.tls]\ncert = {harness.toml_string(certificates.cert)}\nkey = {harness.toml_string(certificates.key)}\n{extra}"
    gate = gates(broker.port, RULES, store=store.url, listen=f"amqps://127.0.0.1:{port}", proxy=proxy, **options)
    gate.port = port
    return gate


def test_a_tls_listener(gates, broker, certificates, store, vhost):
    gate = listening(gates, broker, certificates, store)
    client = connect(gate.port, vhost, context(certificates))
    client.open_channel()
    client.declare("tls")
    for _ in range(3):
        _, properties, payload = wire.task_message("watched.tls", (1, "x" * 200000))
        client.publish(1, "", "tls", payload, properties)
    harness.wait_until(lambda: client.count("tls") == (3 if gate.direct else 1), "one of three")
    client.call(Basic.Get(queue="tls"), Basic.GetOk)
    assert len(client.content()[1]) > 200000
    client.close()


def test_plain_bytes_on_a_tls_listener(gates, broker, certificates, store, vhost):
    gate = listening(gates, broker, certificates, store)
    with socket.create_connection(("127.0.0.1", gate.port)) as plain:
        plain.settimeout(30)
        plain.sendall(wire.PREAMBLE)
        try:
            while plain.recv(1000):
                pass
        except ConnectionError:
            pass
    connect(gate.port, vhost, context(certificates)).close()


def test_mutual_tls(gates, broker, certificates, store, vhost):
    gate = listening(gates, broker, certificates, store, f"client_ca = {harness.toml_string(certificates.ca)}\n")
    connect(gate.port, vhost, context(certificates, client=True)).close()
    if not gate.direct:
        with pytest.raises((ssl.SSLError, OSError, wire.Closed)):
            connect(gate.port, vhost, context(certificates))


def test_tls_to_the_broker(gates, broker, certificates, store, vhost):
    ca = f"[proxy.upstream_tls]\nca = {harness.toml_string(certificates.ca)}\n"
    gate = gates(broker.port, RULES, store=store.url, upstream=f"amqps://localhost:{broker.tls_port}", proxy=ca)
    client = wire.connect(gate.port, vhost)
    client.open_channel()
    client.declare("up")
    for _ in range(3):
        _, properties, payload = wire.task_message("watched.up", (1,))
        client.publish(1, "", "up", payload, properties)
    harness.wait_until(lambda: client.count("up") == (3 if gate.direct else 1), "one of three")
    client.close()


def test_a_reload_that_takes_tls_away_leaves_the_running_legs_as_they_are(gates, broker, certificates, store, vhost):
    """Listeners and brokers change at the next start: until then both legs go on with TLS."""
    if harness.DIRECT:
        pytest.skip("there is no proxy to reload")
    ca = f"[proxy.upstream_tls]\nca = {harness.toml_string(certificates.ca)}\n"
    gate = listening(gates, broker, certificates, store, ca, upstream=f"amqps://localhost:{broker.tls_port}")
    connect(gate.port, vhost, context(certificates)).close()
    text = gate.config.read_text().replace("amqps://localhost:%d" % broker.tls_port, f"amqp://127.0.0.1:{broker.port}")
    text = text.replace("amqps://127.0.0.1", "127.0.0.1")
    kept = [line for line in text.split("\n") if not line.startswith(("cert =", "key =", "ca =", "[proxy.tls", "[proxy.upstream_tls"))]
    gate.config.write_text("\n".join(kept))
    done = gate.run_cli("reload")
    assert done.returncode == 0, done.stderr
    connect(gate.port, vhost, context(certificates)).close()


def test_a_broker_that_nobody_vouches_for_is_refused(gates, broker, store, vhost, certificates):
    if harness.DIRECT:
        pytest.skip("there is no proxy to refuse it")
    gate = gates(broker.port, RULES, store=store.url, upstream=f"amqps://localhost:{broker.tls_port}", start=False)
    gate.start(wait=False)
    harness.wait_until(lambda: _alive(gate), "the admin listener")
    with pytest.raises((wire.Closed, OSError)):
        wire.connect(gate.port, vhost)


def _alive(gate):
    try:
        return gate.get("/livez").ok
    except harness.requests.RequestException:
        return False


def test_celery_over_tls_on_both_legs(gates, broker, certificates, store, stack, scoreboard):
    both = f"[proxy.upstream_tls]\nca = {harness.toml_string(certificates.ca)}\n"
    gate = listening(gates, broker, certificates, store, both, upstream=f"amqps://localhost:{broker.tls_port}")
    # Celery speaks to 127.0.0.1, which the certificate names too.
    conf = {"broker_use_ssl": {"ca_certs": str(certificates.ca), "cert_reqs": int(ssl.CERT_REQUIRED)}}
    stack.produce(gate, "for n in range(10): add.delay(1, 1)\nfence.delay()", conf=conf, scheme="amqps")
    stack.worker(gate, conf=conf, scheme="amqps")
    runs = scoreboard.wait_runs(11 if gate.direct else 2)
    assert runs[-1]["task"] == "live.fence"
