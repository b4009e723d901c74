"""Starts and stops what the live tests stand on: brokers, stores, the proxy, workers, relays.

Everything listens on loopback, on ports that no other run of these tests is given, keeps its files under one
temporary directory, and dies with the process that started it. So tests may run in several processes at once.
"""

import concurrent.futures
import ctypes
import itertools
import json
import os
import pathlib
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import redis as redis_client
import requests

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = ROOT / "target"
APPS = HERE / "apps"

# Straight against the broker many tests cannot pass: they are run that way to see them fail.
# Deadlines are generous on purpose: they end a test that would otherwise hang, and judge no speed.
DIRECT = os.environ.get("ONCEGATE_DIRECT") == "1"
DEADLINE = 15.0 if DIRECT else 60.0
BINARY = os.environ.get("ONCEGATE_BIN") or str(TARGET / "debug" / "oncegate")

_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def number():
    """A number that no other call in this process gets."""
    return next(_numbers)


def _claimed_ports():
    """Ports that no other process on this machine is given while this one lives, in blocks of a hundred.

    A block is claimed by a name in the kernel's abstract name space of sockets, which goes with the process
    however that ends. All ports are outside of the range that the kernel takes for outgoing connections, where that
    leaves any: such a connection may hold a port at the moment when a server is started on it anew.
    """
    first, last = (int(port) for port in pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    every = range(12000, 60000, 100)
    blocks = [block for block in every if block + 100 <= first or block > last] or list(every)
    random.shuffle(blocks)
    for block in blocks:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0oncegate-test-ports-{block}")
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        yield from range(block, block + 100)


_claims = []
_ports = _claimed_ports()


def free_port():
    """A port that nobody listens on, and that no other call gets, in this process or another."""
    for port in _ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("all ports are claimed by test processes")


def wait_until(condition, what, timeout=DEADLINE, interval=0.02):
    """Waits for a true value and returns it; fails with what was waited for and what was last seen."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout:.0f} s for: {what() if callable(what) else what}")
        time.sleep(interval)


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A child in a session of its own, its output in a file."""

    # All that were started, for what a failed test has to show.
    started = []

    def __init__(self, name, command, directory, env=None, cwd=None):
        self.name = name
        self.log = pathlib.Path(directory) / f"{name}.log"
        # What stands before its output where that is shown, and where else it writes.
        self.about = ""
        self.writes = self.log
        # How much of its output is shown, in characters.
        self.shown = 500
        Process.started.append(self)
        with open(self.log, "ab") as out:
            self.popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.pid = self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def output(self):
        return self.log.read_text(errors="replace")

    def story(self):
        """What it is and how it ended, then the last that it wrote."""
        code = self.popen.poll()
        state = f"pid {self.pid}, " + ("runs" if code is None else f"ended with {code}")
        written = self.writes if self.writes.exists() else self.log
        text = written.read_text(errors="replace") if written.exists() else ""
        return f"{state}\n{self.about}{text[-self.shown:]}"

    def send(self, number):
        if self.alive():
            os.kill(self.pid, number)

    def send_group(self, number):
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def freeze(self):
        """Stops the process and all that it started, and returns once each of their threads stands still."""
        self.send_group(signal.SIGSTOP)
        wait_until(lambda: set(self._thread_states()) <= set("TtZX"), "every thread to stop")

    def _thread_states(self):
        for stat in pathlib.Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
            try:
                # The name before it may contain anything.
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(group) == self.pid:
                yield state

    def thaw(self):
        self.send_group(signal.SIGCONT)

    def wait(self, timeout=DEADLINE):
        return self.popen.wait(timeout)

    def kill(self):
        """kill -9 of the process and of all it started."""
        self.send_group(signal.SIGKILL)
        self.popen.wait()

    def stop(self, timeout=15.0):
        """SIGTERM, and SIGKILL if that is not enough."""
        if self.alive():
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
        self.kill()


class Certificates:
    """A private authority and one certificate for 127.0.0.1 and localhost."""

    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.ca = self.dir / "ca.pem"
        self.cert = self.dir / "server.pem"
        self.key = self.dir / "server.key"
        self.client_cert = self.dir / "client.pem"
        self.client_key = self.dir / "client.key"
        self._openssl("req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=test-ca -keyout ca.key -out ca.pem")
        self._issue("server", "localhost", "extendedKeyUsage=serverAuth")
        self._issue("client", "client", "extendedKeyUsage=clientAuth")
        for path in self.dir.iterdir():
            path.chmod(0o644)

    def _openssl(self, arguments):
        subprocess.run(["openssl", *arguments.split()], cwd=self.dir, check=True, capture_output=True)

    def _issue(self, name, common, usage):
        (self.dir / f"{name}.ext").write_text(f"subjectAltName=DNS:localhost,IP:127.0.0.1\n{usage}\nbasicConstraints=CA:FALSE\n")
        self._openssl(f"req -newkey rsa:2048 -nodes -subj /CN={common} -keyout {name}.key -out {name}.csr")
        self._openssl(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile {name}.ext -out {name}.pem"
        )


class RabbitMQ:
    """A private RabbitMQ node: own home, cookie, name, epmd and ports.

    With ONCEGATE_RABBITMQ naming a Debian tree, the node runs inside that tree.
    """

    def __init__(self, directory, certificates=None, config=""):
        self.tree = os.environ.get("ONCEGATE_RABBITMQ") or None
        self.name = f"og{os.getpid()}x{number()}@localhost"
        if self.tree:
            # Inside the tree, where the node can see it.
            self._outside = pathlib.Path(tempfile.mkdtemp(prefix="og-broker-", dir=pathlib.Path(self.tree) / "tmp"))
            self._inside = pathlib.Path("/tmp") / self._outside.name
        else:
            self._outside = pathlib.Path(directory) / self.name
            self._outside.mkdir(parents=True)
            self._inside = self._outside
        self.directory = self._outside
        self.port = free_port()
        self.http_port = free_port()
        self.tls_port = free_port() if certificates else None
        self._epmd_port = free_port()
        self._dist_port = free_port()
        self._process = None
        self._epmd = None
        self._write_files(certificates, config)
        self.http = requests.Session()
        self.http.auth = ("guest", "guest")

    def _write_files(self, certificates, config):
        cookie = self._outside / ".erlang.cookie"
        cookie.write_text(f"cookie{random.getrandbits(64)}")
        cookie.chmod(0o400)
        (self._outside / "enabled_plugins").write_text("[rabbitmq_management].\n")
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "management.tcp.ip = 127.0.0.1",
            f"management.tcp.port = {self.http_port}",
            "log.console = false",
            "log.file.level = info",
            "disk_free_limit.absolute = 50MB",
            # Counts that the tests read come from the queues themselves, so statistics are left out.
            "management.disable_stats = true",
        ]
        if certificates:
            tls = self._outside / "tls"
            shutil.copytree(certificates.dir, tls)
            inside = self._inside / "tls"
            lines += [
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
                f"ssl_options.cacertfile = {inside}/ca.pem",
                f"ssl_options.certfile = {inside}/server.pem",
                f"ssl_options.keyfile = {inside}/server.key",
                "ssl_options.verify = verify_peer",
                "ssl_options.fail_if_no_peer_cert = false",
            ]
        (self._outside / "rabbitmq.conf").write_text("\n".join(lines) + "\n" + config)

    def _environment(self):
        here = self._inside
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(here),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_MNESIA_BASE": f"{here}/data",
            "RABBITMQ_LOG_BASE": f"{here}/log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/enabled_plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{here}/config",
            "RABBITMQ_PID_FILE": f"{here}/pid",
        }

    def _command(self, *command):
        if not self.tree:
            return list(command)
        # A mount name space of its own: what is mounted goes when the node goes.
        script = f'mount -t proc proc "{self.tree}/proc" && mount --rbind /dev "{self.tree}/dev" && exec chroot "{self.tree}" "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", *command]

    def start(self):
        if self.tree:
            shutil.copy("/etc/hosts", pathlib.Path(self.tree) / "etc" / "hosts")
        environment = self._environment()
        if self._epmd is None or not self._epmd.alive():
            epmd = self._command("epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1")
            self._epmd = Process("epmd", epmd, self._outside, environment, cwd="/")
        self._process = Process(
            "rabbitmq", self._command("/usr/lib/rabbitmq/bin/rabbitmq-server"), self._outside, environment, cwd="/"
        )
        self._process.writes = self._outside / "log" / f"{self.name}.log"
        self._process.shown = 1500
        self.wait_ready()
        return self

    def wait_ready(self):
        def ready():
            if not self._process.alive():
                raise AssertionError(f"RabbitMQ ended:\n{self._process.output()[-4000:]}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), 5) as probe:
                    probe.settimeout(5)
                    probe.sendall(b"AMQP\x00\x00\x09\x01")
                    if not probe.recv(7):
                        return False
                return self.http.get(f"http://127.0.0.1:{self.http_port}/api/overview", timeout=5).ok
            except OSError:
                return False

        wait_until(ready, "RabbitMQ to accept connections", 120, 0.1)

    def kill(self, written=False):
        """kill -9: the node ends with no word to anyone; its files stay for the next start.

        What was declared is on the disk by then; that takes a moment, unless it is known to be `written` down.
        """
        if not written:
            self.write_down()
        self._process.kill()

    def write_down(self, *queues, vhost="/"):
        """Has the node put on the disk what it may still have in memory only, and a kill would take: what has been declared,
        and, once these queues are at rest, the acks that they have had.

        RabbitMQ now and then loses a durable queue that was declared a moment before a kill, and with it all that it has confirmed.
        """
        self.ctl("eval", "mnesia:dump_log().")
        for queue in queues:
            look = (
                f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)), '
                "erlang:process_info(amqqueue:get_pid(Q), current_function)."
            )
            wait_until(lambda: "{erlang,hibernate,3}" in self.ctl("eval", look), f"the queue {queue} to be at rest")

    def freeze(self):
        self._process.freeze()

    def thaw(self):
        self._process.thaw()

    def stop(self):
        for process in (self._process, self._epmd):
            if process:
                process.kill()
        if self.tree:
            shutil.rmtree(self._outside, ignore_errors=True)

    def ctl(self, *arguments):
        """rabbitmqctl against this node."""
        done = subprocess.run(
            self._command("/usr/lib/rabbitmq/bin/rabbitmqctl", *arguments),
            env=self._environment(),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"rabbitmqctl {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def api(self, method, path, body=None):
        answer = self.http.request(method, f"http://127.0.0.1:{self.http_port}/api/{path}", json=body, timeout=DEADLINE)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def version(self):
        return tuple(int(part) for part in self.api("GET", "overview")["rabbitmq_version"].split(".")[:2])

    def add_vhost(self, name=None):
        name = name or f"v{number():04d}"
        self.api("PUT", f"vhosts/{name}")
        self.api("PUT", f"permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        return name

    def delete_vhost(self, name):
        self.api("DELETE", f"vhosts/{name}")

    def add_user(self, name, password, vhost=None, configure=".*", write=".*", read=".*"):
        self.api("PUT", f"users/{name}", {"password": password, "tags": ""})
        if vhost:
            self.api("PUT", f"permissions/{vhost}/{name}", {"configure": configure, "write": write, "read": read})

    def connections(self, vhost=None):
        """(user, vhost, peer port) of each connection that the node has now."""
        out = self.ctl("--silent", "list_connections", "user", "vhost", "peer_port")
        rows = [line.split("\t") for line in out.splitlines() if line.strip() and not line.startswith("user\t")]
        return [row for row in rows if vhost is None or row[1] == vhost]

    def settled(self, vhost, queue):
        """True if a queue has nothing ready and nothing in the hands of a consumer."""
        out = self.ctl("--silent", "list_queues", "--vhost", vhost, "name", "messages")
        return f"{queue}\t0" in out.splitlines()

    def close_connections(self, vhost):
        """Has the node close every connection of a virtual host (connection.close 320)."""
        self.ctl("close_all_connections", "--vhost", vhost, "closed by the test")


class Redis:
    """A private Redis without persistence."""

    def __init__(self, directory, *options):
        self.port = free_port()
        self._directory = directory
        self._options = options
        self._process = None
        # Longer than any blocking read, which ends by itself.
        self.client = redis_client.Redis(port=self.port, socket_timeout=DEADLINE + 30, decode_responses=True)

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        self._process = Process(
            f"redis-{self.port}",
            ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", self._directory, *self._options],
            self._directory,
        )

        def ready():
            if not self._process.alive():
                raise AssertionError(f"Redis ended:\n{self._process.output()}")
            try:
                return self.client.ping()
            except redis_client.RedisError:
                return False

        wait_until(ready, "Redis to answer")
        return self

    def freeze(self):
        self._process.freeze()

    def thaw(self):
        self._process.thaw()

    def kill(self):
        self._process.kill()

    def stop(self):
        if self._process:
            self._process.kill()
        self.client.close()

    def locks(self, prefix="oncegate"):
        """The lock hashes of a prefix, each with the digest that its key holds."""
        found = []
        # A scan may name a key more than once.
        for key in sorted(set(self.client.scan_iter(match=f"{prefix}:lock:*", count=1000))):
            fields = self.client.hgetall(key)
            if fields:
                found.append({**fields, "digest": key.rsplit(":", 1)[1].strip("{}"), "key": key})
        return found

    def wait_locks(self, count, state=None):
        """Waits until there are so many locks, all of them in this state if one is named, and returns them.

        A producer has ended before the proxy has read, let alone decided, what it sent. A lock that is queued is
        whole: the broker has its message.
        """
        found = []

        def there():
            found[:] = self.locks()
            return len(found) == count and all(state in (None, lock["state"]) for lock in found)

        wait_until(there, lambda: f"{count} locks, {state or 'in any state'}: {found}")
        return found


_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def parse_metrics(text):
    """Prometheus text as a list of (name, labels, value)."""
    samples = []
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        match = _SAMPLE.match(line)
        assert match, f"not a sample: {line!r}"
        samples.append((match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])))
    return samples


class Gate:
    """The proxy, run from its binary with a configuration file of its own."""

    direct = False

    def __init__(self, directory, config, port, admin_port, name=None, arguments=(), env=None):
        self.name = name or f"oncegate-{number()}"
        self.port = port
        self.admin_port = admin_port
        self.directory = pathlib.Path(directory) / self.name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = self.directory / "oncegate.toml"
        self.config.write_text(config)
        self._arguments = [str(argument) for argument in arguments]
        self._env = {**os.environ, **(env or {})}
        self.process = None
        self.http = requests.Session()
        # A connection that was kept might be ended by the other side at the moment of the next request.
        self.http.headers["Connection"] = "close"

    def start(self, wait=True):
        self.process = Process(
            self.name, [BINARY, "run", "--config", self.config, *self._arguments], self.directory, self._env, cwd=self.directory
        )
        self.process.about = "\n".join(line for line in self.config.read_text().splitlines() if line) + "\n\n"
        self.process.shown = 6000
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        def ready():
            if not self.process.alive():
                raise AssertionError(f"oncegate ended with {self.process.popen.returncode}:\n{self.log()[-4000:]}")
            try:
                return self.get("/readyz").status_code == 200
            except requests.RequestException:
                return False

        wait_until(ready, lambda: f"oncegate to be ready:\n{self.log()[-4000:]}")

    @property
    def admin_url(self):
        return f"http://127.0.0.1:{self.admin_port}"

    def get(self, path, **arguments):
        return self.http.get(self.admin_url + path, timeout=DEADLINE, **arguments)

    def post(self, path, body):
        return self.http.post(self.admin_url + path, json=body, timeout=DEADLINE)

    def metrics(self):
        answer = self.get("/metrics")
        assert answer.status_code == 200, answer.text
        return parse_metrics(answer.text)

    def count(self, metric, **labels):
        """The sum of a metric over all samples that carry these labels."""
        return sum(
            value
            for name, found, value in self.metrics()
            if name == metric and all(found.get(key) == wanted for key, wanted in labels.items())
        )

    def publishes(self, decision=None, **labels):
        if decision:
            labels["decision"] = decision
        return self.count("oncegate_publishes_total", **labels)

    def expect(self, metric, wanted, **labels):
        """Waits until a metric has a value; counters are written a moment after what they count."""
        wait_until(
            lambda: self.count(metric, **labels) == wanted,
            lambda: f"{metric}{labels} = {wanted}, is {self.count(metric, **labels)}: {self.counted()}",
        )

    def counted(self):
        """What the proxy has counted of what tests are about, for a message."""
        return [
            (name.removeprefix("oncegate_"), labels, value)
            for name, labels, value in self.metrics()
            if value and "rule" in labels and name.endswith("_total")
        ]

    def expect_publishes(self, wanted, decision, **labels):
        self.expect("oncegate_publishes_total", wanted, decision=decision, **labels)

    def log(self):
        return self.process.output() if self.process else ""

    def expect_log(self, text):
        """Waits until the log says this; a line is written a moment after what it tells of."""
        wait_until(lambda: text in self.log(), lambda: f"{text!r} in the log:\n{self.log()[-4000:]}")

    def run_cli(self, *arguments, env=None):
        """The same binary as a command: what it exits with, writes and complains of."""
        return run_cli(*arguments, env={"ONCEGATE_ADMIN_URL": self.admin_url, **(env or {})}, cwd=self.directory)

    def reload(self):
        self.process.send(signal.SIGHUP)

    def terminate(self):
        self.process.send(signal.SIGTERM)

    def kill(self):
        self.process.kill()

    def stop(self):
        if self.process:
            self.process.send_group(signal.SIGCONT)
            end = time.monotonic() + 5
            while self.process.alive() and time.monotonic() < end:
                # The second one ends it with no drain. Two at once may arrive as one, so they are sent apart.
                self.process.send(signal.SIGTERM)
                time.sleep(0.02)
            self.process.kill()
        self.http.close()


def run_cli(*arguments, env=None, cwd=None):
    return subprocess.run(
        [BINARY, *[str(argument) for argument in arguments]],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        stdin=subprocess.DEVNULL,
    )


class Bare:
    """Stands where the proxy would, when tests are run straight against the broker."""

    direct = True
    admin_port = None

    def __init__(self, port):
        self.port = port

    def start(self, wait=True):
        return self

    def publishes(self, decision=None, **labels):
        return 0

    def count(self, metric, **labels):
        return 0

    def log(self):
        return ""

    def expect(self, metric, wanted, **labels):
        assert wanted == 0, f"{metric}{labels} = {wanted}: there is no proxy"

    def expect_publishes(self, wanted, decision, **labels):
        self.expect("oncegate_publishes_total", wanted, decision=decision, **labels)

    def stop(self):
        pass

    def __getattr__(self, name):
        raise AssertionError(f"there is no proxy to ask for {name}")


def new_gate(directory, upstream_port, rules="", store="memory:", cli=(), env=None, upstream=None, **parts):
    """A proxy on free ports in front of a broker, not started yet; `parts` are those of `compose`."""
    if DIRECT:
        return Bare(upstream_port)
    port, admin_port = free_port(), free_port()
    config = compose(upstream or f"amqp://127.0.0.1:{upstream_port}", port, admin_port, store, rules, **parts)
    return Gate(directory, config, port, admin_port, arguments=cli, env=env)


def toml_string(text):
    return json.dumps(str(text))


def account(port, vhost, user="guest:guest"):
    """The table of an account of the proxy's own at the broker on this port."""
    return f'[control]\nurl = "amqp://{user}@127.0.0.1:{port}/{vhost}"\n'


def compose(upstream, port, admin_port, store, rules="", proxy="", admin="", store_extra="", extra="", listen=None):
    """A configuration file: the addresses of this test, then what the test adds."""
    if "timeout" not in store_extra:
        # On a busy machine the store may stand still for longer than the default, which counts as away.
        store_extra += '\ntimeout = "5s"'
    return f"""
[proxy]
listen = [{toml_string(listen or f"127.0.0.1:{port}")}]
upstream = [{toml_string(upstream)}]
{proxy}

[store]
url = {toml_string(store)}
{store_extra}

[admin]
listen = "127.0.0.1:{admin_port}"
{admin}

[log]
level = "info"
format = "json"
decisions = "all"
decisions_per_second = 100000

{extra}

{rules}
"""


class Scoreboard:
    """Where tasks write that they ran: a Redis of its own, so that no frozen store holds up a task."""

    def __init__(self, redis, name):
        self.redis = redis
        self.name = name
        self._seen = []

    def _key(self, kind):
        return f"{self.name}:{kind}"

    def wait_runs(self, count, timeout=DEADLINE):
        """Waits for the next marks until there are as many as asked for, and returns all so far."""
        end = time.monotonic() + timeout
        while len(self._seen) < count:
            left = end - time.monotonic()
            popped = self.redis.client.blpop([self._key("runs")], timeout=max(1, int(left))) if left > 0 else None
            if popped is None:
                raise AssertionError(f"{len(self._seen)} of {count} runs after {timeout:.0f} s: {self._seen[-5:]}")
            self._seen.append(json.loads(popped[1]))
        return list(self._seen)

    def drain(self):
        while (item := self.redis.client.lpop(self._key("runs"))) is not None:
            self._seen.append(json.loads(item))
        return list(self._seen)

    def runs_of(self, task, **fields):
        wanted = {"task": task, **fields}
        return [run for run in self.drain() if all(run.get(key) == value for key, value in wanted.items())]

    def open_gate(self, name, times=1):
        """Lets tasks that wait at a named gate go on."""
        for _ in range(times):
            self.redis.client.rpush(self._key(f"gate:{name}"), "go")

    def wait_ready(self, node, timeout=DEADLINE):
        popped = self.redis.client.blpop([self._key(f"ready:{node}")], timeout=int(timeout))
        assert popped, f"worker {node} was not ready after {timeout:.0f} s"


def app_environment(
    port, vhost, queue, scoreboard, result_url=None, conf=None, user="guest", password="guest", scheme="amqp", library=None
):
    """What the application under `apps` reads; `library` names the one of a library's examples."""
    return {
        **os.environ,
        "PYTHONPATH": f"{APPS / library}{os.pathsep}{APPS}" if library else str(APPS),
        "APP_MODULE": "tasks" if library else "app",
        "APP_BROKER": f"{scheme}://{user}:{password}@127.0.0.1:{port}/{vhost}",
        "APP_BACKEND": result_url or "",
        "APP_QUEUE": queue,
        "APP_CONF": json.dumps(conf or {}),
        "APP_SCOREBOARD": scoreboard.redis.url,
        "APP_SCOREBOARD_NAME": scoreboard.name,
    }


class Worker:
    """A real `celery worker`; ready once Celery says so itself."""

    def __init__(self, directory, environment, scoreboard, *arguments, concurrency=1, quick=True, node=None):
        self.node = node or f"w{number()}"
        quick_arguments = ["--without-mingle", "--without-gossip"] if quick else []
        self.process = Process(
            f"worker-{self.node}",
            [sys.executable, "-m", "celery", "-A", environment["APP_MODULE"], "worker", "-n", f"{self.node}@test", "-c", concurrency,
             "--loglevel", "INFO", *quick_arguments, *arguments],
            directory,
            environment,
            cwd=APPS,
        )
        self.process.shown = 3000
        self.scoreboard = scoreboard
        try:
            scoreboard.wait_ready(self.node)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.process.output()[-4000:]}") from None

    def log(self):
        return self.process.output()

    def kill(self):
        self.process.kill()

    def terminate(self):
        """SIGTERM to the main process: Celery's warm shutdown."""
        self.process.send(signal.SIGTERM)

    def stop(self):
        """At once: a test that wants Celery's own shutdown asks for it."""
        self.process.kill()


def run_producer(environment, code, timeout=DEADLINE * 2, check=True):
    """Runs code in a producer's own process, with the application imported as Celery users have it."""
    done = subprocess.run(
        [sys.executable, "-c", f"from {environment['APP_MODULE']} import *\n" + code],
        env=environment,
        cwd=APPS,
        capture_output=True,
        text=True,
        timeout=timeout,
        preexec_fn=_die_with_parent,
    )
    if check:
        assert done.returncode == 0, f"producer failed:\n{done.stdout}{done.stderr}"
    return done


def in_background(function, *arguments, **options):
    """Runs it beside the test; what it returns, or raises, is had by calling what is returned."""
    return concurrent.futures.ThreadPoolExecutor(1).submit(function, *arguments, **options).result


def _received(source):
    return iter(lambda: source.recv(65536), b"")


class Relay:
    """A TCP relay that keeps what passes, byte for byte, and changes nothing.

    With a delay, in seconds, all that comes from upstream is passed on that much later, as over a long way. While it is
    deaf, nothing of what clients send is passed on.
    """

    def __init__(self, upstream_port, delay=0.0):
        self.upstream_port = upstream_port
        self.delay = delay
        self.deaf = False
        self.connections = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = True
        self._sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while self._open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                upstream = socket.create_connection(("127.0.0.1", self.upstream_port))
            except OSError:
                client.close()
                continue
            record = {"to_broker": bytearray(), "to_client": bytearray(), "client": client, "upstream": upstream}
            self.connections.append(record)
            self._sockets += [client, upstream]
            for end in (client, upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = self._late(_received(upstream)) if self.delay else _received(upstream)
            for chunks, sink, source, kept in (
                (self._heard(client), upstream, client, record["to_broker"]),
                (answers, client, upstream, record["to_client"]),
            ):
                threading.Thread(target=self._copy, args=(chunks, sink, source, kept), daemon=True).start()

    @staticmethod
    def _copy(chunks, sink, source, kept):
        try:
            for data in chunks:
                kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def _heard(self, client):
        for data in _received(client):
            while self.deaf and self._open:
                time.sleep(0.01)
            yield data

    def _late(self, chunks):
        """The same chunks, each as much later as the delay was when it came; so is the end."""
        line = queue.SimpleQueue()

        def read():
            error = None
            try:
                for data in chunks:
                    line.put((time.monotonic() + self.delay, data, None))
            except OSError as caught:
                error = caught
            line.put((time.monotonic() + self.delay, b"", error))

        threading.Thread(target=read, daemon=True).start()
        while True:
            due, data, error = line.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if error:
                raise error
            if not data:
                return
            yield data

    def cut(self):
        """Resets every connection on both sides."""
        for end in self._sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stop(self):
        self._open = False
        self._listener.close()
        for end in self._sockets:
            end.close()
