//! The layer of environment variables.
//!
//! Unknown `KVASIR_` variables are ignored, unlike unknown flags and keys:
//! Kubernetes injects `KVASIR_ROUTER_PORT`, `KVASIR_ROUTER_SERVICE_HOST` and
//! the like into every pod beside a service named `kvasir-router`. For the same
//! reason no flag of `router` or `worker` is called `port`, `host` or
//! `service-...`.

use clap::Command;

use super::CONFIG;
use super::setting::{Origin, Setting, Settings, is_list, options};

/// Name of the variable of a flag.
pub(super) fn variable(subcommand: &str, flag: &str) -> String {
    format!("KVASIR_{subcommand}_{flag}")
        .replace('-', "_")
        .to_uppercase()
}

/// The configuration file, if a variable names one.
pub(super) fn config_file(environment: &[(String, String)]) -> Option<String> {
    lookup(environment, "KVASIR_CONFIG").map(str::to_owned)
}

/// Settings of a subcommand. A flag that may be repeated takes its values
/// separated by commas.
pub(super) fn read(command: &Command, environment: &[(String, String)]) -> Settings {
    let mut settings = Settings::default();
    for arg in options(command).filter(|arg| !arg.is_hide_set()) {
        let flag = arg.get_long().unwrap_or_default();
        let name = variable(command.get_name(), flag);
        let Some(text) = lookup(environment, &name).filter(|_| flag != CONFIG) else {
            continue;
        };
        let values = if is_list(arg) {
            text.split(',').map(|it| it.trim().to_owned()).collect()
        } else {
            vec![text.to_owned()]
        };
        settings.insert(flag, Setting::new(arg, values, Origin::Variable(name)));
    }
    settings
}

/// An empty variable counts as unset: manifests often can't leave one out.
fn lookup<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = environment
        .iter()
        .find(|(key, value)| key == name && !value.is_empty());
    found.map(|(_, value)| value.as_str())
}
