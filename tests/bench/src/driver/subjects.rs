//! What is compared, and the servers behind it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process::{Ending, Server, free_address};

/// What stands between client and broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Nothing.
    Bare,
    /// `HAProxy`, `mode tcp`.
    HaProxy,
    /// Oncegate with `memory:`.
    OncegateMemory,
    /// Oncegate with a Redis of its own.
    OncegateRedis,
}

impl Subject {
    /// As the tables call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Bare => "bare broker",
            Self::HaProxy => "HAProxy",
            Self::OncegateMemory => "Oncegate, memory:",
            Self::OncegateRedis => "Oncegate, Redis",
        }
    }

    /// Whether it is the proxy under test.
    pub fn is_oncegate(self) -> bool {
        matches!(self, Self::OncegateMemory | Self::OncegateRedis)
    }
}

/// A subject that accepts connections; it ends when this is dropped.
pub struct Running {
    /// Where a client connects.
    pub address: SocketAddr,
    /// The proxy's process; none for the bare broker.
    pub proxy: Option<Server>,
    /// Where Oncegate's metrics are.
    admin: Option<SocketAddr>,
}

impl Running {
    /// Starts `subject` in front of `broker`.
    pub fn start(subject: Subject, broker: SocketAddr, redis: SocketAddr, oncegate: Option<&PathBuf>, directory: &Path) -> Result<Self> {
        if subject == Subject::Bare {
            return Ok(Self {
                address: broker,
                proxy: None,
                admin: None,
            });
        }
        let address = free_address()?;
        if subject == Subject::HaProxy {
            let config = directory.join("haproxy.cfg");
            fs::write(&config, haproxy_config(address, broker))?;
            let mut proxy = Server::start(
                "haproxy",
                Ending::Killed,
                directory,
                Command::new("haproxy").arg("-db").arg("-f").arg(config),
            )?;
            proxy.wait_for(address)?;
            return Ok(Self {
                address,
                proxy: Some(proxy),
                admin: None,
            });
        }
        let store = match subject {
            Subject::OncegateRedis => {
                redis_flush(redis)?;
                format!("redis://{redis}/0")
            }
            _ => "memory:".to_owned(),
        };
        let admin = free_address()?;
        let config = directory.join("oncegate.toml");
        fs::write(&config, oncegate_config(address, broker, &store, admin))?;
        let binary = oncegate.context("no Oncegate binary")?;
        let mut proxy = Server::start(
            "oncegate",
            Ending::Killed,
            directory,
            Command::new(binary).arg("run").arg("--config").arg(config),
        )?;
        proxy.wait_for(address)?;
        proxy.wait_for(admin)?;
        Ok(Self {
            address,
            proxy: Some(proxy),
            admin: Some(admin),
        })
    }

    /// Whether duplicates stop here.
    pub fn deduplicates(&self) -> bool {
        self.admin.is_some()
    }

    /// Publishes and deliveries by decision as Oncegate counted them; nothing for the others.
    pub fn decisions(&self) -> Result<Vec<(String, u64)>> {
        let Some(admin) = self.admin else { return Ok(Vec::new()) };
        let metrics = http_get(admin, "/metrics")?;
        let mut counts: Vec<(String, u64)> = Vec::new();
        for line in metrics.lines() {
            let what = match line.split_once('{') {
                Some(("oncegate_publishes_total", _)) => "publishes",
                Some(("oncegate_deliveries_total", _)) => "deliveries",
                _ => continue,
            };
            let (labels, value) = line.rsplit_once(' ').context("a metric without a value")?;
            let decision = labels
                .split_once("decision=\"")
                .and_then(|(_, rest)| rest.split_once('"'))
                .context("no decision label")?
                .0;
            let decision = format!("{what} {decision}");
            let value = value.parse::<f64>()? as u64;
            match counts.iter_mut().find(|(name, _)| *name == decision) {
                Some((_, sum)) => *sum += value,
                None => counts.push((decision, value)),
            }
        }
        counts.retain(|(_, count)| *count > 0);
        Ok(counts)
    }
}

/// One thread per core is `HAProxy`'s own default; it is written down because the comparison rests on it.
fn haproxy_config(listen: SocketAddr, broker: SocketAddr) -> String {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "global\n  nbthread {threads}\n  maxconn 8000\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen amqp\n  bind {listen}\n  server broker {broker}\n"
    )
}

/// All defaults but addresses and the one rule, so that unmatched traffic is looked into too.
fn oncegate_config(listen: SocketAddr, broker: SocketAddr, store: &str, admin: SocketAddr) -> String {
    format!(
        "[proxy]\nlisten = [\"{listen}\"]\nupstream = [\"amqp://{broker}\"]\n\n[store]\nurl = \"{store}\"\n\n\
         [admin]\nlisten = \"{admin}\"\n\n[[rule]]\ntask = \"bench.unique\"\nunique = \"until_finished\"\n"
    )
}

fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("half an HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{path}: {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// A null broker: this very program.
pub fn start_null_broker(directory: &Path) -> Result<(Server, SocketAddr)> {
    let address = free_address()?;
    let program = std::env::current_exe()?;
    let mut server = Server::start(
        "null-broker",
        Ending::Asked,
        directory,
        Command::new(program).arg("null-broker").arg(address.to_string()),
    )?;
    server.wait_for(address)?;
    Ok((server, address))
}

/// A Redis without persistence.
pub fn start_redis(directory: &Path) -> Result<(Server, SocketAddr)> {
    let address = free_address()?;
    let mut command = Command::new("redis-server");
    command.args([
        "--bind",
        "127.0.0.1",
        "--port",
        &address.port().to_string(),
        "--save",
        "",
        "--appendonly",
        "no",
    ]);
    let mut server = Server::start("redis", Ending::Asked, directory, command.arg("--dir").arg(directory))?;
    server.wait_for(address)?;
    Ok((server, address))
}

/// Every round starts with an empty store, as it starts with a fresh proxy.
fn redis_flush(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"FLUSHALL\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    if &answer != b"+OK\r\n" {
        bail!("Redis does not flush");
    }
    Ok(())
}

/// A private `RabbitMQ` node with its own port mapper.
pub struct RabbitMq {
    /// Where clients connect.
    pub address: SocketAddr,
    // Dropped in this order: the port mapper does not end while a node is registered with it.
    _node: Server,
    _mapper: Server,
    pid_file: PathBuf,
}

impl RabbitMq {
    /// Starts it with its defaults and waits until it accepts logins.
    pub fn start(directory: &Path) -> Result<Self> {
        let home = directory.join("rabbitmq");
        fs::create_dir_all(&home)?;
        let (address, mapper_address, distribution) = (free_address()?, free_address()?, free_address()?);
        let mapper_port = mapper_address.port().to_string();
        let mut mapper = Server::start(
            "epmd",
            Ending::Asked,
            directory,
            Command::new("epmd").args(["-port", &mapper_port, "-address", "127.0.0.1"]),
        )?;
        mapper.wait_for(mapper_address)?;
        let pid_file = home.join("pid");
        let config = home.join("rabbitmq.conf");
        fs::write(&config, format!("listeners.tcp.1 = {address}\n"))?;
        fs::write(home.join("enabled_plugins"), "[].\n")?;
        let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        command
            .env("HOME", &home)
            .env("ERL_EPMD_PORT", &mapper_port)
            .env("RABBITMQ_NODENAME", format!("bench{}@localhost", std::process::id()))
            .env("RABBITMQ_DIST_PORT", distribution.port().to_string())
            .env("RABBITMQ_CONFIG_FILE", &config)
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", home.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", home.join("log"))
            .env("RABBITMQ_PID_FILE", &pid_file);
        let mut node = Server::start("rabbitmq", Ending::Asked, directory, &mut command)?;
        node.wait_for(address)?;
        let rabbitmq = Self {
            address,
            _node: node,
            _mapper: mapper,
            pid_file,
        };
        // The listener opens a little before the node takes logins.
        let start = Instant::now();
        while let Err(error) = crate::client::Client::connect(rabbitmq.address, 0) {
            if start.elapsed() > Duration::from_secs(30) {
                return Err(error.context("RabbitMQ takes no login"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(rabbitmq)
    }

    /// The process of the Erlang machine: the start script waits beside it.
    pub fn pid(&self) -> Result<u32> {
        let text = fs::read_to_string(&self.pid_file).context("no pid file")?;
        Ok(text.trim().parse()?)
    }
}
