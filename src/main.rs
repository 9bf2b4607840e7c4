//! The `tidegate` binary: flags, the log, and which command runs.

use std::io;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tidegate::cli::{
    Check, Cli, Command, ControllerCommand, DrainSide, Inject, LogFormat, OutputFormat, Probe, Process, SidecarAction,
    SidecarCommand, Standalone,
};
use tidegate::source::cluster;
use tidegate::telemetry::logging::{self, Format};
use tidegate::{api, app, check, cli, demo, inject, probe, reason, settings, telemetry};

/// Gives free memory back to the system, which the C library's allocator keeps; options in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Standalone(standalone) => serve(&standalone).map(|()| ExitCode::SUCCESS),
        Command::Controller(command) => control(&command).map(|()| ExitCode::SUCCESS),
        Command::Sidecar(command) => serve_beside(&command).map(|()| ExitCode::SUCCESS),
        Command::Demo(command) => {
            start_log(&command.serve.process).and_then(|()| demo::run(&command)).map(|()| ExitCode::SUCCESS)
        }
        Command::Inject(command) => run_inject(&command),
        Command::Check(check) => run_check(&check),
        Command::Probe(command) => run_probe(command),
        Command::Crd => print(&api::crd::crd_yaml()),
        Command::Metrics => print(&format!("{}\n{}", telemetry::table(), reason::table())),
        Command::Settings => print(&settings::table::table(&cli::standalone_defaults())),
    };
    done.unwrap_or_else(|error| {
        // One line: what failed, and why, outermost first.
        eprintln!("tidegate: {error:#}");
        ExitCode::FAILURE
    })
}

fn start_log(process: &Process) -> Result<()> {
    let format = match process.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    Ok(logging::init(&process.log, format)?)
}

fn serve(standalone: &Standalone) -> Result<()> {
    start_log(&standalone.serve.process)?;
    let running = app::start(standalone.settings()?, &standalone.config)?;
    running.print_ready()?;
    running.wait(app::Hangup::ReadAgain)
}

fn control(command: &ControllerCommand) -> Result<()> {
    start_log(&command.serve.process)?;
    let options = app::ControllerOptions {
        kubeconfig: command.kubeconfig.clone(),
        watch: cluster::Options {
            namespaces: command.watch_namespaces.clone(),
            legacy_endpoints: command.watch_legacy_endpoints,
            cache: command.cache.clone(),
            certificate_role: command.certificate_role.clone(),
            ..cluster::Options::default()
        },
        lease: (!command.no_status).then(|| app::LeaseOptions {
            name: command.lease_name.clone(),
            namespace: command.lease_namespace.clone(),
        }),
    };
    let running = app::start_controller(command.settings()?, &options)?;
    running.print_ready()?;
    running.wait(app::Hangup::ReadAgain)
}

fn serve_beside(command: &SidecarCommand) -> Result<()> {
    if let Some(SidecarAction::Drain { side: DrainSide::In, admin }) = command.action {
        return app::drain_incoming(admin);
    }
    start_log(&command.process)?;
    let (settings, options) = (command.settings()?, command.options()?);
    let objects = match &command.config {
        Some(folder) => app::SidecarObjects::Folder(folder.clone()),
        None => app::SidecarObjects::Cluster { kubeconfig: command.kubeconfig.clone(), cache: command.cache.clone() },
    };
    let running = app::start_sidecar(settings, &objects, options, &command.awaited_ports())?;
    running.print_ready()?;
    running.wait(app::Hangup::ReadAgain)
}

fn run_inject(command: &Inject) -> Result<ExitCode> {
    if command.policy {
        let policies =
            inject::admission_policies("tidegate-sidecar", command.image.as_deref(), &command.cluster_domain);
        return print(&policies);
    }
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let outcome =
        inject::run(&command.options(), &mut io::stdin(), &mut out, &mut err).context("cannot write the manifests")?;
    Ok(ExitCode::from(outcome as u8))
}

fn run_check(command: &Check) -> Result<ExitCode> {
    let options = check::Options {
        paths: command.paths.clone(),
        allow_unresolved: command.allow_unresolved,
        json: command.output == OutputFormat::Json,
    };
    let settings = match command.settings() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("tidegate: {:#}", anyhow::Error::from(error));
            return Ok(ExitCode::from(check::CheckOutcome::Usage as u8));
        }
    };
    let base = app::base(&settings);
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let verdict =
        check::run(&options, base, &mut io::stdin(), &mut out, &mut err).context("cannot write the findings")?;
    Ok(ExitCode::from(verdict as u8))
}

fn run_probe(command: Probe) -> Result<ExitCode> {
    let options = probe::Options {
        targets: command.targets,
        statuses: command.status,
        host: command.host,
        fields: command.header,
        contains: command.contains,
        times: command.times.get(),
        wait: command.wait,
        timeout: command.timeout,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let done = runtime.block_on(probe::run(&options, &mut io::stdout().lock(), &mut io::stderr().lock()));
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    Ok(if done.context("cannot write what was found")? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(text: &str) -> Result<ExitCode> {
    use io::Write as _;
    match io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has seen enough, as in `tidegate crd | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to standard output")?,
    }
    Ok(ExitCode::SUCCESS)
}
