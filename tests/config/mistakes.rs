//! What is said of each mistake, word for word.

use oncegate::config::error::{Colour, ConfigErrors};
use oncegate::config::{self, Environment, Flags};

/// A text, and every line that is said of it.
const MISTAKES: &[(&str, &[&str])] = &[
    (
        r#"[proxy]
listn = ["127.0.0.1:5673"]"#,
        &[r#"o.toml:2:1: unknown key "listn" in [proxy]. Did you mean "listen"?"#],
    ),
    (
        r#"[prox]
listen = ["127.0.0.1:5673"]"#,
        &["o.toml:1:2: unknown table [prox]. Did you mean [proxy]?"],
    ),
    (
        r#"[[rules]]
task = "a""#,
        &["o.toml:1:3: unknown table [[rules]]. Did you mean [[rule]]?"],
    ),
    (
        r#"listen = "a""#,
        &[r#"o.toml:1:1: unknown key "listen". It belongs in [admin] or [proxy]."#],
    ),
    (
        r#"[proxy]
listen = "127.0.0.1:5673"
upstream = ["redis://x", "amqp://guest:guest@y", 3]
connect_timeout = 5
handshake_timeout = "5 sec"
max_message = "16M"
max_connections = 0
upstream_policy = "robin"
upstream_confirms = "yes""#,
        &[
            r#"o.toml:2:11: listen = "127.0.0.1:5673" is a string where a list is meant. Write listen = ["127.0.0.1:5673"]."#,
            r#"o.toml:3:14: upstream = "redis://x" has the scheme redis://, which is not AMQP. Write "amqp://HOST:5672", or "amqps://HOST:5671" for TLS."#,
            r#"o.toml:3:27: upstream = "amqp://guest:guest@y" holds a user name: the proxy logs in with the credentials of each client. Write "amqp://HOST:5672", or "amqps://HOST:5671" for TLS."#,
            r#"o.toml:3:50: upstream = 3 is a number where an address is meant. Write upstream = "amqp://127.0.0.1:5672"."#,
            r#"o.toml:4:19: connect_timeout = 5 has no unit. Write connect_timeout = "5s" for seconds (ms, s, m, h, d)."#,
            r#"o.toml:5:22: handshake_timeout = "5 sec" is not a duration. Write a whole number and one of ms, s, m, h, d, such as "10s" or "5m"."#,
            r#"o.toml:6:16: max_message = "16M" is not a size. Write a whole number and one of B, KiB, MiB, GiB, such as "16MiB"."#,
            "o.toml:7:19: max_connections = 0 is too small. Write at least max_connections = 1.",
            r#"o.toml:8:20: upstream_policy = "robin" is not known. Write one of "round_robin", "first", "least_connections"."#,
            r#"o.toml:9:22: upstream_confirms = "yes" is a string where a boolean is meant. Write upstream_confirms = true or false."#,
        ],
    ),
    (
        r#"[proxy]
listen = ["0.0.0.0:5673"]"#,
        &[
            r#"o.toml:2:12: listen = "0.0.0.0:5673" is reached from other machines, and no store is named for the locks. Write [store] with url = "redis://HOST:6379/0", or url = "memory:" if this is the only proxy."#,
        ],
    ),
    (
        r#"[proxy]
max_message = "64MiB""#,
        &[
            r#"o.toml:2:16: max_message = "64MiB" does not fit into connection_memory (32MiB). Write connection_memory = "130MiB" beside it."#,
        ],
    ),
    (
        r#"[proxy]
connection_memory = "16MiB""#,
        &[
            r#"o.toml:2:22: connection_memory = "16MiB" is less than max_message (16MiB) and 1MiB. Write at least connection_memory = "17MiB"."#,
        ],
    ),
    (
        r#"[store]
url = "redis://me:secret@h/x""#,
        &[
            r#"o.toml:2:8: url = *** has "x" where the number of a database is meant. Write "redis://HOST:6379/0", "rediss://USER:PASSWORD@HOST:6379/0", or "memory:"."#,
        ],
    ),
    (
        r#"[store]
url = "redis+cluster://a,b"
prefix = "a b"
timeout = "0s""#,
        &[
            r#"o.toml:2:8: url = "redis+cluster://a,b" is not available in this version: redis+cluster:// is not built yet. Write "redis://HOST:6379/0", "rediss://USER:PASSWORD@HOST:6379/0", or "memory:"."#,
            r#"o.toml:3:11: prefix = "a b" cannot begin the names of keys. Write letters, digits and any of . : _ - such as "oncegate"."#,
            r#"o.toml:4:12: timeout = "0s" is no time at all. Write a longer one, such as "250ms"."#,
        ],
    ),
    (
        r#"[admin]
listen = "0.0.0.0:9672""#,
        &[
            r#"o.toml:2:11: listen = "0.0.0.0:9672" is reached from other machines and there is no token. Write [[admin.token]] with name, file and role, or listen on 127.0.0.1."#,
        ],
    ),
    (
        r#"[admin]
listen = "127.0.0.1:9672"
[[admin.token]]
name = "a"
file = "/nonexistent"
role = "rad"
[[admin.token]]"#,
        &[
            r#"o.toml:5:9: file = "/nonexistent" cannot be read: No such file or directory (os error 2). Write the path of a file that the user of oncegate may read; paths are relative to the config file."#,
            r#"o.toml:6:9: role = "rad" is not known. Did you mean "read"? Known are "read", "operate"."#,
            r#"o.toml:7:1: [[admin.token]] has no name. Write name = "…", which the audit log shows."#,
            r#"o.toml:7:1: [[admin.token]] has no file. Write file = "…", which holds the token."#,
        ],
    ),
    (
        r#"[proxy]
listen = ["amqps://127.0.0.1:5671"]"#,
        &[
            r#"o.toml:2:10: listen = ["amqps://127.0.0.1:5671"] takes TLS and there is no certificate. Write [proxy.tls] with cert and key."#,
        ],
    ),
    (
        r#"[proxy.tls]
cert = "/dev/null""#,
        &[r#"o.toml:2:9: cert = "/dev/null" has no key beside it. Write key = "….pem" beside it."#],
    ),
    (
        r#"[control]
url = "http://a"
enable_events = "yes""#,
        &[
            r#"o.toml:2:8: url = "http://a" is not the URL of a broker. Write url = "amqp://USER:PASSWORD@HOST:5672/VHOST", with amqps:// for TLS."#,
            r#"o.toml:3:18: enable_events = "yes" is not known. Write one of "auto", "true", "false"."#,
        ],
    ),
    (
        r#"[[rule]]
task = "a"
unique = "until_finish""#,
        &[
            r#"o.toml:3:11: unique = "until_finish" is not known. Did you mean "until_finished"? Known are "until_started", "until_finished", "until_expired", "while_running", "until_started+while_running"."#,
        ],
    ),
    (
        r#"[[rule]]
task = "a"
unique = "while_running"
cooldown = "5m"
on_duplicate = "keep_last"
result = "revoke"
release_on = ["success"]
dead_letter = { routing_key = "x" }
[[rule.limit]]
rate = "2/x""#,
        &[
            r#"o.toml:4:13: cooldown = "5m" lets the key rest after a success, and on_duplicate = "keep_last" runs what waits at once. Leave one of the two out."#,
            r#"o.toml:5:17: on_duplicate = "keep_last" waits for the end of the task that holds the key, and unique = "while_running" does not last until then. Write unique = "until_finished"."#,
            r#"o.toml:7:14: release_on = ["success"] keeps the key locked after the other outcome, and what waits (on_duplicate = "keep_last") would wait for the ttl. Leave release_on out."#,
            r#"o.toml:10:9: rate = "2/x" is not a rate. Write a whole number from 1, a slash, and one of s, m, h, d, such as "2/m"."#,
        ],
    ),
    (
        r#"[[rule]]
task = "a"
debounce = "5s"
debounce_max = "3s"
on_duplicate = "raise"
[[rule]]
task = "b"
unique = "while_running"
debounce = "5s"
[[rule]]
task = "c"
unique = "until_started"
debounce = "0s"
[[rule]]
task = "d"
unique = "until_expired"
debounce = "5s""#,
        &[
            r#"o.toml:3:13: debounce = "5s" stands in a rule without unique. Write unique = "until_started" beside it."#,
            r#"o.toml:4:17: debounce_max = "3s" is shorter than debounce. Write a longer one."#,
            r#"o.toml:5:17: on_duplicate = "raise" stands beside debounce, which replaces. Leave on_duplicate out, or write "replace"."#,
            r#"o.toml:9:13: debounce = "5s" puts off what a key has in its queue, and unique = "while_running" locks keys for runs only. Write unique = "until_started+while_running"."#,
            r#"o.toml:13:13: debounce = "0s" is no time at all. Write a longer one, or leave debounce out."#,
            r#"o.toml:17:13: debounce = "5s" replaces what has not started, and unique = "until_expired" never hears of a start. Write unique = "until_started" or "until_finished"."#,
        ],
    ),
    (
        r#"[[rule]]
task = "a"
beat_lease = "0s"
beat_origins = ["gen*"]
[[rule]]
task = "b"
beat_origins = ["gen*@beat-*"]
retry_delays = "1m""#,
        &[
            r#"o.toml:3:15: beat_lease = "0s" is no time at all. Write a longer one, or leave beat_lease out."#,
            r#"o.toml:7:16: beat_origins = ["gen*@beat-*"] names the beats of a beat_lease that is not set. Write beat_lease = "15s" beside it."#,
            r#"o.toml:8:17: retry_delays = "1m" is a string where a list is meant. Write retry_delays = ["1m"]."#,
        ],
    ),
    (
        r#"[[rule]]
task = "a"
unique = until_started
ttl = 10s"#,
        &[
            r#"o.toml:3:10: unique: not TOML: string values must be quoted, expected literal string. Texts, durations and sizes take quotes, such as ttl = "10s"."#,
            r#"o.toml:4:7: ttl: not TOML: string values must be quoted, expected literal string. Texts, durations and sizes take quotes, such as ttl = "10s"."#,
        ],
    ),
    (
        r#"[defaults]
tll = "1h"
task = "x""#,
        &[
            r#"o.toml:2:1: unknown key "tll" in [defaults]. Did you mean "ttl"?"#,
            r#"o.toml:3:1: unknown key "task" in [defaults]. Known are mode, unique, params, key, namespace, ttl, running_ttl, max_ttl, lease, orphan_grace, settle_grace, hold_max, on_duplicate, on_running, debounce, debounce_max, release_on, cooldown, result, canvas, acks_late, completion, dead_letter, expires_with_lock, retry_delays, beat_lease, beat_origins, on_store_error, store_wait, summary, allow_overrides, limit."#,
        ],
    ),
    (
        r#"[defaults]
ttl = "1x"
[[rule]]
task = "a"
unique = "until_started""#,
        &[r#"o.toml:2:8: ttl = "1x" is not a duration. Write a whole number and one of ms, s, m, h, d, such as "10s" or "5m"."#],
    ),
    (
        r#"[signatures]
reports.build = "a, b""#,
        &[r#"o.toml:2:1: reports is split at its dot. Write the whole name of the task in quotes: "reports.…" = "…"."#],
    ),
    (
        r#"[[rule]]
task = "a"
key = 3
on_duplicates = "drop""#,
        &[
            r#"o.toml:3:7: key = 3 is a number where a list is meant. Write a list of expressions such as key = ["customer_id"], or a template such as key = "{{ customer_id }}"."#,
            r#"o.toml:4:1: unknown key "on_duplicates" in [[rule]]. Did you mean "on_duplicate"?"#,
        ],
    ),
    (
        r#"[log]
level = "verbose"
decisions_per_second = -1"#,
        &[
            r#"o.toml:2:10: level = "verbose" is not known. Write one of "error", "warn", "info", "debug", "trace"."#,
            "o.toml:3:24: decisions_per_second = -1 is not a whole number from 0. Write decisions_per_second = 100.",
        ],
    ),
    (
        "proxy = 3",
        &["o.toml:1:9: proxy = 3 is a number where a table is meant. Write [proxy] and its keys below."],
    ),
    (
        r#"[rule]
task = "a""#,
        &["o.toml:1:2: [rule] is one table where a list of tables is meant. Write [[rule]], once for each."],
    ),
    (
        r#"watch_config = "true""#,
        &[r#"o.toml:1:17: watch_config = "true" is a string where a boolean is meant. Write watch_config = true or false."#],
    ),
    (
        r#"[[rule]]
task = "a"
key = "customer_id"
unique = "until_started""#,
        &[
            r#"o.toml:3:8: key = "customer_id" is a constant: every call would be a duplicate. Write key = ["customer_id"] or "{{ customer_id }}"; for one per task write key = []."#,
        ],
    ),
    (
        r#"[[rule]]
task = "a"
unique = "until_expired"
on_duplicate = "replace""#,
        &[
            r#"o.toml:4:17: on_duplicate = "replace" replaces what has not started, and unique = "until_expired" never hears of a start. Write unique = "until_started" or "until_finished"."#,
        ],
    ),
    (
        r#"[[rule]]
task = "a"
completion = ["ack"]
cooldown = "5m"
release_on = ["success"]
on_duplicate = "dead_letter"
debounce_max = "3s"
[[rule.limit]]
times = 2
per = "1m"
burst = 3
max_wait = "1m"
[[rule.limit]]
key = ["a"]"#,
        &[
            r#"o.toml:4:13: cooldown = "5m" begins after a success, and completion = ["ack"] never tells of one. Add "events", "rpc" or "redis" to completion, which tell success from failure."#,
            r#"o.toml:5:14: release_on = ["success"] needs the outcome of a task, and completion = ["ack"] never tells it. Add "events", "rpc" or "redis" to completion, which tell success from failure."#,
            r#"o.toml:6:17: on_duplicate = "dead_letter" has nowhere to go. Write dead_letter = { exchange = "", routing_key = "duplicates" }."#,
            r#"o.toml:7:17: debounce_max = "3s" bounds a debounce that is not set. Write debounce beside it."#,
            "o.toml:11:9: burst = 3 is above times (2), which no window may exceed. Write at most burst = 2.",
            r#"o.toml:12:13: max_wait = "1m" does not say what comes after it. Write on_max_wait = "deliver", "drop" or "dead_letter"."#,
            r#"o.toml:13:1: [[rule.limit]] limits nothing. Write rate = "2/m", or times and per, or concurrent = 1."#,
        ],
    ),
    (
        r#"[[rule]]
task = "a"
params = "customer_id, region='eu'"
[[rule.limit]]
name = "two words"
rate = "2/m"
[[rule.limit]]
name = "x"
times = 1000000
per = "1d"
[[rule.limit]]
rate = "2/m"
name = "x"
key = ["customer"]
[[rule.limit]]
concurrent = 1
key = ["'fixed'"]
[[rule.limit]]
concurrent = 20000
max_wait = "1h"
on_max_wait = "dead_letter"
[[rule.limit]]
rate = "2/m"
key = "customer_id"
[[rule.limit]]
name = "7"
concurrent = 1
[[rule.limit]]
concurrent = 1
[[rule.limit]]
name = ""
rate = "1/s""#,
        &[
            r#"o.toml:5:9: name = "two words" has characters that a name cannot have. Use A-Z a-z 0-9 _ . and - only."#,
            "o.toml:9:9: times = 1000000 is above 100000: the time of each is kept. Write both times and per smaller: 1000000 per 1d is 11 per second.",
            r#"o.toml:13:9: name = "x" is the name of two limits of the rule, number 2 and number 3. Give each limit a name of its own; one without is named after its position."#,
            r#"o.toml:14:9: key = "customer": `customer` in `customer` is neither a parameter nor a name that Oncegate gives. Write params = "customer" with the task's signature, or kwargs.customer or args[0]; the names given are args, kwargs, task, id, headers, queue, exchange, routing_key, vhost, user, priority, eta, retries, origin."#,
            r#"o.toml:17:9: key = "'fixed'": `'fixed'` in key is a constant: all calls would share one limit. Name an argument in each element; for one key per task write key = []."#,
            "o.toml:19:14: concurrent = 20000 is not between 1 and 10000. Write concurrent = 1, or another number in this range.",
            r#"o.toml:21:16: on_max_wait = "dead_letter" has nowhere to go. Write dead_letter = { exchange = "", routing_key = "limited" } in the rule."#,
            r#"o.toml:24:8: key = "customer_id" is a constant: all calls would share one limit. Write key = ["customer_id"] or "{{ customer_id }}"; for one per task write key = []."#,
            r#"o.toml:31:9: name = "" has characters that a name cannot have. Use A-Z a-z 0-9 _ . and - only."#,
        ],
    ),
    (
        r#"[store]
url = "redis://h"
url_file = "/dev/null""#,
        &[
            "o.toml:1:2: url and url_file are both set. Keep one of them.",
            r#"o.toml:3:12: url_file = *** is not the URL of a store. Write "redis://HOST:6379/0", "rediss://USER:PASSWORD@HOST:6379/0", or "memory:"."#,
        ],
    ),
    (
        r#"[control.vhosts]
jobs = "amqp://a""#,
        &[r#"o.toml:2:1: jobs is a string where a table is meant. Write [control.vhosts."jobs"]."#],
    ),
    (
        r#"[proxy]
listen = ["0.0.0.0:5673"]
[store]
url = "memory:"
[control]
url = "amqp://me:secret@localhost:5673/""#,
        &[
            "o.toml:6:8: url = *** dials 0.0.0.0:5673, where this proxy itself listens. Write the address of the broker, as in proxy.upstream.",
        ],
    ),
    (
        r#"[control]
url = "amqp://h/jobs"
[control.vhosts."jobs"]
url = "amqp://h"
[control.vhosts."mail"]
url = "amqp://h/jobs"
[control.vhosts."web"]"#,
        &[
            r#"o.toml:3:17: control.url is an account for the virtual host "jobs" too. Keep one of them."#,
            r#"o.toml:6:8: url = "amqp://h/jobs" names another virtual host than "mail". Leave the virtual host out of url, or write [control.vhosts."jobs"]."#,
            r#"o.toml:7:17: url is missing. Write url = "amqp://USER:PASSWORD@HOST:5672"."#,
        ],
    ),
    (
        r#"[admin]
token = "abc"
hosts = ["a/b"]"#,
        &[
            r#"o.toml:2:10: token = "abc" is a string where a list of tables is meant. Write [[admin.token]], once for each."#,
            r#"o.toml:3:9: hosts = ["a/b"] is not a list of host names. Write names as they stand in the Host header, such as ["oncegate.example"]."#,
        ],
    ),
    (
        r#"[[rule]]
task = "a"
unique = """until
_x""""#,
        &[
            r#"o.toml:3:13: unique = """until… is not known. Write one of "until_started", "until_finished", "until_expired", "while_running", "until_started+while_running"."#,
        ],
    ),
    (
        r#"[proxy]
tcp_keepalive = "10ms"
listen = []
proxy_protocol_from = ["10.0.0.0/8"]
send_proxy_protocol = "v2"
held_max = 1.5"#,
        &[
            r#"o.toml:2:18: tcp_keepalive = "10ms" is less than a second, which the kernel cannot count. Write tcp_keepalive = "60s"."#,
            "o.toml:3:10: listen = [] is empty. Write at least one address, or leave listen out.",
            r#"o.toml:4:23: proxy_protocol_from = ["10.0.0.0/8"] is not available in this version. Leave proxy_protocol_from out."#,
            r#"o.toml:5:24: send_proxy_protocol = "v2" is not available in this version. Leave send_proxy_protocol out."#,
            "o.toml:6:12: held_max = 1.5 is a number with a fraction where a whole number is meant. Write held_max = 100.",
        ],
    ),
    (
        r#"[events]
exchange = ""
[park]
prefix = "amq.y"
[results]
kind = "worker"
expires = "2d"
url = "sentinel://:pw@h:26379;sentinel://:pw@i:26379""#,
        &[
            r#"o.toml:2:13: exchange = "" is the exchange without a name, which takes the name of a queue for a routing key. Write exchange = "oncegate", or leave exchange out."#,
            r#"o.toml:4:11: prefix = "amq.y" begins with amq., which is the broker's own. Write prefix = "oncegate.park", or leave prefix out."#,
            r#"o.toml:8:8: url = *** is not available in this version: sentinel:// is not built yet. Write "redis://HOST:6379/0" or "rediss://USER:PASSWORD@HOST:6379/0"."#,
        ],
    ),
    (
        "[events]\nexchange = \"a\\tb\"",
        &[r#"o.toml:2:13: exchange = "a\tb" has a control character. Write exchange = "oncegate", or leave exchange out."#],
    ),
    (
        r#"[park]
prefix = """#,
        &[r#"o.toml:2:11: prefix = "" is empty. Write prefix = "oncegate.park", or leave prefix out."#],
    ),
    (
        "[park]\nprefix = \"a\\tb\"",
        &[r#"o.toml:2:11: prefix = "a\tb" has a control character. Write prefix = "oncegate.park", or leave prefix out."#],
    ),
    (
        r#"[results]
kind = "redis"
key_prefx = "shop""#,
        &[
            r#"o.toml:2:9: kind = "redis" does not say where the Redis is. Write url = "redis://HOST:6379/1" beside it."#,
            r#"o.toml:3:1: unknown key "key_prefx" in [results]. Did you mean "key_prefix"?"#,
        ],
    ),
    (
        r#"
[[rule]]
task = "a"
unique = "until_expired"
canvas = "dedupe"
[[rule]]
task = "b"
unique = "while_running"
canvas = "dedupe"
[[rule]]
task = "c"
unique = "until_started+while_running"
on_running = "drop"
canvas = "dedupe"
"#,
        &[
            r#"o.toml:5:11: canvas = "dedupe" waits for the end of the holder of a lock, and unique = "until_expired" has none that is held until then. Write unique = "until_finished" or "until_started", or canvas = "bypass"."#,
            r#"o.toml:9:11: canvas = "dedupe" waits for the end of the holder of a lock, and unique = "while_running" has none that is held until then. Write unique = "until_finished" or "until_started", or canvas = "bypass"."#,
            r#"o.toml:14:11: canvas = "dedupe" deduplicates members of a canvas, which on_running would lose. Write on_running = "wait", or canvas = "bypass"."#,
        ],
    ),
    (
        r#"[results]
kind = "worker"
url = "rpc://""#,
        &[
            r#"o.toml:3:8: url = "rpc://" has the scheme rpc://, which is not the Redis result backend. Write "redis://HOST:6379/0" or "rediss://USER:PASSWORD@HOST:6379/0"."#,
        ],
    ),
    (
        r#"[[rule]]
task = "a"
unique = "until_started"
name = 1
queue = ["a", 2]
ttl = "0s"
allow_overrides = ["key", "tll"]
retry_delays = ["1m", 5]
dead_letter = { exchange = "d" }
mode = "dry""#,
        &[
            r#"o.toml:4:8: name = 1 is a number where a string is meant. Write name = "…"."#,
            r#"o.toml:5:15: queue = 2 is a number where a string is meant. Write queue = "…"."#,
            r#"o.toml:6:8: ttl = "0s" is no time at all. Write a longer one, such as "1d"."#,
            r#"o.toml:7:28: allow_overrides = "tll" is not known. Did you mean "ttl"? Known are "key", "ttl", "bypass"."#,
            r#"o.toml:8:23: retry_delays = 5 has no unit. Write retry_delays = "5s" for seconds (ms, s, m, h, d)."#,
            r#"o.toml:9:1: dead_letter has no routing_key. Write dead_letter = { exchange = "", routing_key = "duplicates" }."#,
            r#"o.toml:10:9: mode = "dry" is not known. Write one of "enforce", "observe", "off"."#,
        ],
    ),
    (
        "[proxy]\nmax_connections = 1\nmax_connections = 2\nlisten = [ \"a:1\"\n",
        &[
            "o.toml:3:1: max_connections: not TOML: duplicate key. Keep one of them.",
            "o.toml:4:17: listen: not TOML: unclosed array, expected `]`. Write key = value: texts in quotes, lists in [ ], tables as [name].",
        ],
    ),
    (
        "[[rule]]\r\n\"tösk\" = 1\r\ntask = \"ä\" # \u{1F600}\r\nunique = { a = \"ö\", b = 1 }\r\n",
        &[
            "o.toml:2:1: unknown key \"tösk\" in [[rule]]. Did you mean \"task\"?",
            "o.toml:4:10: unique = { a = \"ö\", b = 1 } is a table where a word is meant. \
             Write one of \"until_started\", \"until_finished\", \"until_expired\", \"while_running\", \"until_started+while_running\".",
        ],
    ),
];

/// Mistakes within a rule's texts: their places are found here, their words in the rules.
const PLACES: &[(&str, &[&str])] = &[
    (
        r#"[[rule]]
task = "a"
key = ["customer_id", "1"]
unique = "until_started"
when = "eta and (""#,
        &["3:9", "3:24", "5:9"],
    ),
    (
        r#"[[rule]]
task = ["a*", "b[c"]
unique = "until_started"
params = "a, b=, c""#,
        &["1:1", "2:16", "4:14"],
    ),
    (
        r#"[[rule]]
name = "x y"
task = "a"
unique = "until_started"
[[rule]]
unique = "until_started"
[[rule]]
task = "a"
unique = "until_started"
[[rule]]
task = "a""#,
        &["2:9", "5:1", "5:1", "10:1"],
    ),
    (
        r#"[signatures]
"a" = "x=1, y""#,
        &["2:13"],
    ),
    (
        r#"[[rule]]
task = "a"
params = "a, b"
key = "{{ a }}-{{ c }}"
unique = "until_started""#,
        &["4:9"],
    ),
];

fn refuse(text: &str) -> ConfigErrors {
    let config = config::load_text("o.toml", text, &Environment::new(), &Flags::default());
    config.map(|_| ()).expect_err(text)
}

#[test]
fn each_mistake_is_told_with_place_text_and_remedy() {
    for (text, lines) in MISTAKES {
        let errors = refuse(text).to_string();
        assert_eq!(errors.lines().collect::<Vec<_>>(), *lines, "\n{text}");
    }
}

#[test]
fn mistakes_in_texts_are_told_at_their_place() {
    for (text, places) in PLACES {
        let errors = refuse(text);
        let found: Vec<_> = errors
            .0
            .iter()
            .map(|error| error.place.to_string().replace("o.toml:", ""))
            .collect();
        assert_eq!(found, *places, "\n{text}\n{errors}");
    }
}

/// The offset of a mistake counts within the value; in the file, quotes and escapes come before it.
#[test]
fn places_within_texts_count_escapes() {
    for (line, column) in [
        ("when = \"eta and foo\"", 17),
        ("when = 'eta and foo'", 17),
        ("when = \"\\t eta and foo\"", 20),
        ("when = \"\\u0020eta and foo\"", 23),
        ("when = \"\"\"eta and foo\"\"\"", 19),
        ("when = \"\"\"\neta and foo\"\"\"", 9),
        ("when = '''eta and foo'''", 19),
    ] {
        let errors = refuse(&format!("[[rule]]\ntask = \"a\"\n{line}"));
        let place = errors.0[0].place.to_string();
        assert_eq!(place.rsplit(':').next(), Some(column.to_string().as_str()), "{line}: {errors}");
    }
}

#[test]
fn snippets_show_the_line_and_no_other() {
    let errors = refuse("[store]\nurl = \"redis://:hunter2@h\"\ntimeout = \"soon\"\nprefix = \"ok\"");
    let expected =
        "o.toml:3:12: timeout = \"soon\" is not a duration. Write a whole number and one of ms, s, m, h, d, such as \"10s\" or \"5m\".
   ╭─[o.toml:3:1]
 3 │ timeout = \"soon\"
   ·            ────
   ╰────
";
    assert_eq!(errors.render(Colour::Off), expected);
}

#[test]
fn passwords_are_not_repeated() {
    for text in [
        "[store]\nurl = \"redis://:hunter2@h/x\"",
        "[store]\nurl = \"redis+sentinel://:hunter2@h/x\"",
        "[results]\nurl = \"redis://:hunter2@h/x\"",
        "[results]\nurl = \"sentinel://:hunter2@h:26379;sentinel://:hunter2@i:26379\"",
        "[control]\nurl = \"http://a:hunter2@h\"",
        "[control.vhosts.\"x\"]\nurl = \"amqp://a:hunter2@h/y\"",
        "[control]\nurl = \"amqp://a:hunter2@127.0.0.1:5673\"",
        "[store]\nurl = \"redis://:hunter2@h/1\nx",
    ] {
        let errors = refuse(text);
        let said = errors.to_string() + &errors.render(Colour::Off) + &format!("{errors:?}");
        assert!(
            !errors.render(Colour::On).contains("hunter2") && !errors.to_string().contains("hunter2"),
            "{said}"
        );
    }
}

#[test]
fn a_missing_file_is_named() {
    let path = std::path::Path::new("/nonexistent/oncegate.toml");
    let errors = config::load(Some(path), &Environment::new(), &Flags::default()).expect_err("refused");
    let expected = "/nonexistent/oncegate.toml: there is no such file. Write the path of a config file, or make one.";
    assert_eq!(errors.to_string(), expected);
}
