//! Which parts a cluster has, and the command line of each.

use std::net::SocketAddr;
use std::num::NonZero;
use std::thread::available_parallelism;

use clap::{Args, Command, ValueEnum};
use worker::Role;

use super::Config;
use super::passed_on::PassedOn;
use crate::stdio::ParentFlag;

/// A cluster as it is to be started.
pub struct Shape {
    /// Where the gateway listens.
    pub listen: String,
    /// Prefill, decode and undivided workers.
    counts: [(Role, usize); 3],
    /// Of every worker.
    worker: Vec<String>,
    /// Of the router.
    router: Vec<String>,
    /// Of every process.
    process: Vec<String>,
}

pub struct WorkerPart {
    pub name: String,
    pub role: &'static str,
    arguments: Vec<String>,
    process: Vec<String>,
}

pub struct RouterPart {
    arguments: Vec<String>,
    process: Vec<String>,
}

impl Shape {
    pub fn of(config: &Config) -> Shape {
        let counts = match config.workers {
            Some(workers) => [(Role::Prefill, 0), (Role::Decode, 0), (Role::Both, workers)],
            None => [
                (Role::Prefill, config.prefill.unwrap_or(1)),
                (Role::Decode, config.decode.unwrap_or(1)),
                (Role::Both, 0),
            ],
        };
        let PassedOn { mut worker, router } = config.passed_on.clone();
        worker.push("--listen=127.0.0.1:0".to_owned());
        worker.push(format!("--model={}", config.model));
        worker.push(format!("--device={}", name(config.device)));
        if !worker.iter().any(|it| it.starts_with("--threads=")) {
            let workers = counts.iter().map(|(_, count)| count).sum();
            let cores = available_parallelism().map_or(1, NonZero::get);
            worker.push(format!("--threads={}", threads(cores, workers)));
        }
        Shape {
            listen: SocketAddr::new(config.listen_address, config.port).to_string(),
            counts,
            worker,
            router,
            process: process_arguments(config),
        }
    }

    /// The workers, named by role and number.
    pub fn workers(&self) -> Vec<WorkerPart> {
        let numbers = |(role, count): (Role, usize)| (0..count).map(move |number| (role, number));
        let part = |(role, number)| {
            let (name, role) = match role {
                Role::Prefill => (format!("prefill-{number}"), "prefill"),
                Role::Decode => (format!("decode-{number}"), "decode"),
                Role::Both => (format!("worker-{number}"), "both"),
            };
            let mut arguments = self.worker.clone();
            arguments.push(format!("--id={name}"));
            arguments.push(format!("--role={role}"));
            WorkerPart {
                name,
                role,
                arguments,
                process: self.process.clone(),
            }
        };
        self.counts
            .into_iter()
            .flat_map(numbers)
            .map(part)
            .collect()
    }

    /// The router of workers at `addresses`.
    pub fn router(&self, addresses: Vec<SocketAddr>) -> RouterPart {
        let mut arguments = self.router.clone();
        arguments.push(format!("--listen={}", self.listen));
        arguments.extend(addresses.iter().map(|it| format!("--worker=grpc://{it}")));
        RouterPart {
            arguments,
            process: self.process.clone(),
        }
    }
}

impl WorkerPart {
    pub fn parse(&self) -> Result<worker::Config, clap::Error> {
        parse(&self.arguments)
    }

    /// Arguments of `kvasir`.
    pub fn command(&self) -> Vec<String> {
        command("worker", &self.arguments, &self.process)
    }
}

impl RouterPart {
    pub fn parse(&self) -> Result<router::Config, clap::Error> {
        parse(&self.arguments)
    }

    /// Arguments of `kvasir`.
    pub fn command(&self) -> Vec<String> {
        command("router", &self.arguments, &self.process)
    }
}

fn parse<C: Args>(arguments: &[String]) -> Result<C, clap::Error> {
    let command = C::augment_args(Command::new("part").no_binary_name(true));
    C::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

fn command(part: &str, arguments: &[String], process: &[String]) -> Vec<String> {
    let first = std::iter::once(part.to_owned());
    first
        .chain(arguments.iter().cloned())
        .chain(process.iter().cloned())
        .collect()
}

fn process_arguments(config: &Config) -> Vec<String> {
    let telemetry = &config.telemetry;
    let mut arguments = vec![
        ParentFlag::ARGUMENT.to_owned(),
        format!("--drain-grace={}", config.drain_grace),
        format!("--log-level={}", telemetry.log_level),
        format!("--log-format={}", name(telemetry.log_format)),
    ];
    let endpoint = telemetry.otlp_endpoint.iter();
    arguments.extend(endpoint.map(|url| format!("--otlp-endpoint={url}")));
    arguments
}

fn name(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map(|it| it.get_name().to_owned()).unwrap_or_default()
}

/// An equal share of the cores for each worker.
fn threads(cores: usize, workers: usize) -> usize {
    (cores / workers.max(1)).max(1)
}

#[cfg(test)]
mod tests;
