//! `topics plan` and `topics apply`: their output and their exit codes.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::moved_keys;
use super::render::counted;
use crate::settings::Settings;
use crate::topics::cluster::{self, Applied, TopicsError};
use crate::topics::{Finding, Fix, Plan, Severity};

/// Why the tool failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TopicsToolError {
    /// The topics could not be read or changed.
    #[error(transparent)]
    Topics(#[from] TopicsError),
    /// The reader of the output is gone.
    #[error("the result could not be printed")]
    Print(#[from] io::Error),
}

/// Prints what is missing or differs and what that costs. The exit code is 0 if there is nothing to do, and 1 otherwise.
///
/// # Errors
/// When the cluster can't be reached, or the output not be written.
pub(crate) async fn run_plan(
    settings: &Settings,
    json: bool,
    out: &mut impl Write,
) -> Result<ExitCode, TopicsToolError> {
    let mut plan = cluster::plan(&settings.kafka, &settings.topics, &settings.delivery.schedule).await?;
    let integrations = &settings.topics.integrations;
    // To ask for a topic by its name may create it.
    if !plan.findings.iter().any(|finding| finding.topic == *integrations && finding.fix == Fix::Create) {
        plan.notes.extend(moved_keys::note(settings).await);
    }
    if json {
        print_json(out, &PlanJson { findings: &plan.findings, notes: &plan.notes })?;
    } else {
        print_plan(out, &plan)?;
    }
    Ok(if plan.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Creates and alters topics and prints what was done and what is left. The exit code is 0 if nothing failed and nothing is left that
/// loses data or stops the worker, and 1 otherwise.
///
/// # Errors
/// When the cluster can't be reached, or the output not be written.
pub(crate) async fn run_apply(
    settings: &Settings,
    json: bool,
    out: &mut impl Write,
) -> Result<ExitCode, TopicsToolError> {
    let applied = cluster::apply(&settings.kafka, &settings.topics, &settings.delivery.schedule).await?;
    if json {
        let left = PlanJson { findings: &applied.left.findings, notes: &applied.left.notes };
        print_json(out, &AppliedJson { done: &applied.done, failed: &applied.failed, left })?;
    } else {
        print_applied(out, &applied)?;
    }
    let is_fit = applied.left.findings.iter().all(|finding| finding.severity != Severity::Error);
    Ok(if applied.failed.is_empty() && is_fit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Serialize)]
struct PlanJson<'a> {
    findings: &'a [Finding],
    notes: &'a [String],
}

#[derive(Serialize)]
struct AppliedJson<'a> {
    done: &'a [String],
    failed: &'a [String],
    left: PlanJson<'a>,
}

fn print_json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

fn print_plan(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    let mut topic = "";
    for finding in &plan.findings {
        if finding.topic != topic {
            topic = &finding.topic;
            writeln!(out, "{topic}")?;
        }
        print_finding(out, finding)?;
    }
    for note in &plan.notes {
        writeln!(out, "note: {note}")?;
    }
    if plan.findings.is_empty() {
        return writeln!(out, "nothing to do: {} topics are as they should be", plan.specs.len());
    }
    let errors = plan.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let by_hand = plan.findings.iter().filter(|finding| finding.fix == Fix::ByHand).count();
    let warnings = plan.findings.len() - errors;
    let fixed = plan.findings.len() - by_hand;
    let (errors, warnings) = (counted(errors, "error"), counted(warnings, "warning"));
    writeln!(out, "{errors}, {warnings}; `topics apply` settles {fixed}, left for a person: {by_hand}")
}

fn print_finding(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let Finding { subject, actual, wanted, cost, .. } = finding;
    let verb =
        if *subject == "topic" { "missing, wanted with".to_owned() } else { format!("{subject} is {actual}, wanted") };
    writeln!(out, "  {severity:<8} {verb} {wanted}")?;
    writeln!(out, "           {cost}")?;
    match &finding.fix {
        Fix::Create => writeln!(out, "           apply: create it"),
        Fix::Set(value) => writeln!(out, "           apply: set {subject}={value}"),
        Fix::Partitions(count) => writeln!(out, "           apply: raise it to {count} partitions"),
        Fix::ByHand => writeln!(out, "           not changed by apply"),
    }
}

fn print_applied(out: &mut impl Write, applied: &Applied) -> io::Result<()> {
    for line in &applied.done {
        writeln!(out, "{line}")?;
    }
    for line in &applied.failed {
        writeln!(out, "failed: {line}")?;
    }
    if applied.done.is_empty() && applied.failed.is_empty() {
        writeln!(out, "nothing was changed")?;
    }
    print_plan(out, &applied.left)
}
