//! What the numbers were measured on.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use super::Options;

/// Prints the machine, the versions and how long was measured.
pub fn print(options: &Options, redis: SocketAddr) {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!(
        "- machine: {cores} cores, {}, {} MiB, Linux {}",
        cpu_model(),
        memory_mebibytes(),
        read("/proc/sys/kernel/osrelease")
    );
    println!("- load average before the run: {}", read("/proc/loadavg"));
    println!("- {}", first_line("haproxy", &["-v"]));
    println!("- {}", first_line("redis-server", &["--version"]));
    println!("- {}", redis_yardstick(redis));
    println!("- RabbitMQ {}", rabbitmq_version());
    match &options.oncegate {
        Some(binary) => println!("- {} ({})", first_line(&binary.to_string_lossy(), &["--version"]), binary.display()),
        None => println!("- Oncegate: not run"),
    }
    println!(
        "- {} rounds, {:?} per rate turn, subjects in turn within each round\n",
        options.rounds, options.turn
    );
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find(|line| line.starts_with(name))
        .and_then(|line| line.split_once(':'))
        .map(|(_, value)| value.trim())
}

fn cpu_model() -> String {
    field(&read("/proc/cpuinfo"), "model name")
        .unwrap_or("unknown processor")
        .to_owned()
}

fn memory_mebibytes() -> u64 {
    let meminfo = read("/proc/meminfo");
    let total = field(&meminfo, "MemTotal")
        .and_then(|value| value.split(' ').next())
        .and_then(|value| value.parse::<u64>().ok());
    total.unwrap_or(0) / 1024
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.lines()
        .next()
        .map_or_else(|| format!("{program}: version unknown"), str::to_owned)
}

/// What Redis alone does here with one-key scripts: absolute rates mean little without it.
fn redis_yardstick(redis: SocketAddr) -> String {
    let port = redis.port().to_string();
    let script = "return redis.call('SET',KEYS[1],ARGV[1],'NX','PX',60000)";
    let fixed = [
        "-q",
        "-n",
        "200000",
        "-c",
        "20",
        "-P",
        "50",
        "-r",
        "10000000",
        "-p",
        &port,
        "EVAL",
        script,
        "1",
        "k:__rand_int__",
        "v",
    ];
    let output = Command::new("redis-benchmark").args(fixed).output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let rate = text
        .rsplit_once(" requests per second")
        .and_then(|(before, _)| before.rsplit(' ').next());
    format!(
        "Redis alone, one-key scripts, pipelined by 50: {} per second",
        rate.unwrap_or("unknown")
    )
}

/// Asking `RabbitMQ` itself takes seconds; its directory has the version in its name.
fn rabbitmq_version() -> String {
    let names = fs::read_dir("/usr/lib/rabbitmq/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    let versions = names.filter_map(|name| name.to_string_lossy().strip_prefix("rabbitmq_server-").map(str::to_owned));
    versions.collect::<Vec<_>>().join(", ")
}

/// Time that the hypervisor took from this machine.
pub struct Steal {
    steal: u64,
    total: u64,
}

impl Steal {
    /// Reads the counters.
    pub fn now() -> Self {
        let stat = read("/proc/stat");
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|tick| tick.parse().ok())
            .collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is contained in user already.
        Self {
            steal: ticks.get(7).copied().unwrap_or(0),
            total: ticks.iter().take(8).sum(),
        }
    }

    /// Prints the share since then.
    pub fn print(&self) {
        let now = Self::now();
        let share = (now.steal - self.steal) as f64 / (now.total - self.total).max(1) as f64 * 100.0;
        println!(
            "\nCPU time stolen by the hypervisor during the run: {share:.1} %. Load average after it: {}",
            read("/proc/loadavg")
        );
    }
}
