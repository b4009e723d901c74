//! Child processes on free ports, ended by their own id, and what the kernel says of them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// How long a server may take to listen, and to end when asked.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is asked and may tidy up.
    Asked,
    /// At once: a proxy has nothing to tidy up here, and a graceful drain would cost seconds in every turn.
    Killed,
}

/// A child process that ends when this is dropped.
pub struct Server {
    child: Child,
    name: String,
    ending: Ending,
}

impl Server {
    /// Starts `command` with its output in `directory/name.log`. The kernel ends it if this program dies.
    pub fn start(name: &str, ending: Ending, directory: &Path, command: &mut Command) -> Result<Self> {
        let log = File::create(directory.join(format!("{name}.log")))?;
        let mut guarded = Command::new("setpriv");
        guarded
            .args(["--pdeathsig", "TERM", "--"])
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
        guarded.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = guarded.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            ending,
        })
    }

    /// Waits until it accepts connections.
    pub fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before it listened", self.name);
            }
            if start.elapsed() > PATIENCE {
                bail!("{} does not listen on {address}", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.ending == Ending::Killed {
            let _ = self.child.kill();
            let _ = self.child.wait();
            return;
        }
        // The standard library only knows SIGKILL, which would leave a broker's files in disorder.
        let asked = Command::new("kill")
            .args(["-TERM", &self.pid().to_string()])
            .stderr(Stdio::null())
            .status();
        let start = Instant::now();
        while asked.is_ok() && start.elapsed() < PATIENCE {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        eprintln!("{} does not end when asked; killed", self.name);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address with a port that is free now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// CPU time of each thread of a process so far, user and system, in nanoseconds.
///
/// This is the time that utime and stime of `/proc/PID/stat` round to 10 ms, which is too coarse where a turn has few messages.
pub struct CpuTime(HashMap<OsString, u64>);

impl CpuTime {
    /// Reads the counters of `/proc/PID/task/TID/schedstat`.
    pub fn now(pid: u32) -> Result<Self> {
        let mut threads = HashMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let entry = entry?;
            // A thread may end while this reads.
            let Ok(schedstat) = fs::read_to_string(entry.path().join("schedstat")) else {
                continue;
            };
            let nanoseconds = schedstat.split_whitespace().next().context("an empty schedstat")?.parse()?;
            threads.insert(entry.file_name(), nanoseconds);
        }
        Ok(Self(threads))
    }

    /// Seconds used since `before` by the threads that still run.
    pub fn seconds_since(&self, before: &Self) -> f64 {
        let used = self
            .0
            .iter()
            .map(|(thread, now)| now.saturating_sub(before.0.get(thread).copied().unwrap_or(0)));
        used.sum::<u64>() as f64 / 1e9
    }
}

/// Resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or_else(|| anyhow!("no VmRSS"))?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kibibytes * 1024)
}

/// A directory under the system's temporary one that goes when this is dropped.
pub struct Workspace(std::path::PathBuf);

impl Workspace {
    /// Makes it.
    pub fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("oncegate-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // A failed run leaves its logs to be read.
        if std::env::var_os("ONCEGATE_BENCH_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.0);
        } else {
            eprintln!("logs are in {}", self.0.display());
        }
    }
}
