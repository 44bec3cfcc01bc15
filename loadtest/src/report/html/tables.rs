//! The page's tables.

use crate::figures::{Figures, RunInfo, Statistic};
use crate::report::numbers::count;
use crate::report::plot::escaped;
use crate::report::sweep::{SWEEP_HEADING, sweep_cells};
use crate::report::{PolicyPoint, SweepPoint, policies, table};

/// The run and what its figures say besides latencies.
pub(super) fn facts(info: &RunInfo, figures: &Figures) -> String {
    let run = table::run(info);
    let mut facts = vec![("run", run)];
    facts.extend(table::facts(figures));
    facts.extend(info.notes.iter().map(|it| ("note", it.clone())));
    format!("<section>{}</section>", fact_table(&facts))
}

fn fact_table(facts: &[(&str, String)]) -> String {
    let fact = |(name, text): &(&str, String)| {
        format!(
            "<tr><th scope=\"row\">{name}</th><td>{}</td></tr>",
            escaped(text)
        )
    };
    let rows: String = facts.iter().map(fact).collect();
    format!("<table class=\"facts\">{rows}</table>")
}

/// Simulated policies side by side; empty without.
pub(super) fn policies(points: &[PolicyPoint]) -> String {
    if points.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = points.iter().map(policies::cells).collect();
    let heading = policies::HEADING.map(str::to_owned);
    let cluster = fact_table(&policies::facts(&points[0].cluster));
    format!(
        "{}<section><h2>The simulated cluster</h2>{cluster}</section>",
        section("Policies", &heading, &rows)
    )
}

/// Empty without points.
pub(super) fn sweep(points: &[SweepPoint]) -> String {
    if points.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = points.iter().map(|it| sweep_cells(it).to_vec()).collect();
    section("Rates measured", &SWEEP_HEADING.map(str::to_owned), &rows)
}

pub(super) fn latencies(figures: &Figures) -> String {
    let names = Statistic::ALL.map(Statistic::name);
    let heading = ["", "count"].into_iter().chain(names);
    let heading = heading.map(str::to_owned).collect::<Vec<_>>();
    let row = |(metric, quantiles): (crate::figures::Metric, &crate::figures::Quantiles)| {
        let cells = [metric.title().to_owned(), count(quantiles.count)];
        let values = Statistic::ALL.map(|it| table::ms(quantiles, it));
        cells.into_iter().chain(values).collect::<Vec<_>>()
    };
    let rows: Vec<_> = table::shown(&figures.latency).map(row).collect();
    section("Latencies in milliseconds", &heading, &rows)
}

pub(super) fn breakdowns(figures: &Figures) -> String {
    let breakdowns = table::breakdowns(figures).into_iter();
    let shown = breakdowns.filter(|(_, groups)| !groups.is_empty());
    let section = |(by, groups): (&str, &[crate::figures::Group])| {
        let rows: Vec<_> = groups
            .iter()
            .map(|it| table::group_cells(it).to_vec())
            .collect();
        let mut heading = table::group_heading(by);
        heading[0] = by.to_owned();
        section(&format!("By {by}"), &heading, &rows)
    };
    shown.map(section).collect()
}

fn section(title: &str, heading: &[String], rows: &[Vec<String>]) -> String {
    let cell = |it: &String| format!("<th scope=\"col\">{}</th>", escaped(it));
    let heading: String = heading.iter().map(cell).collect();
    let row = |cells: &Vec<String>| {
        let texts = cells.iter().enumerate();
        let cells: String = texts
            .map(|(i, text)| match i {
                0 => format!("<th scope=\"row\">{}</th>", escaped(text)),
                _ => format!("<td>{}</td>", escaped(text)),
            })
            .collect();
        format!("<tr>{cells}</tr>")
    };
    let rows: String = rows.iter().map(row).collect();
    format!(
        "<section><h2>{}</h2><table class=\"numbers\"><thead><tr>{heading}</tr></thead>\
         <tbody>{rows}</tbody></table></section>",
        escaped(title)
    )
}
