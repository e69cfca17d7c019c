//! Progress of long work, on stderr and only where a person watches.

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Drawn again this often even if nothing has moved, for the clock to run.
const REDRAW: Duration = Duration::from_millis(250);

/// A bar over a known number of bytes.
pub(super) fn bytes(what: &'static str, total: u64) -> ProgressBar {
    bar(
        Some(total),
        "{msg:<12} {bar:30} {decimal_bytes:>9} of {decimal_total_bytes:9} {decimal_bytes_per_sec:>11}  {eta}",
    )
    .with_message(what)
}

/// A bar over a known number of things.
pub(super) fn count(what: &'static str, total: u64) -> ProgressBar {
    bar(
        Some(total),
        "{msg:<12} {bar:30} {human_pos} of {human_len}  {elapsed}",
    )
    .with_message(what)
}

/// A count without an end. Nothing is drawn where it would run between the lines of a conversation.
pub(super) fn counter(what: &'static str, talking: bool) -> ProgressBar {
    if talking {
        return ProgressBar::hidden();
    }
    bar(None, "{msg} {human_pos}  {per_sec}").with_message(what)
}

fn bar(total: Option<u64>, template: &str) -> ProgressBar {
    let target = if stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(total, target).with_style(style.progress_chars("━╸ "));
    bar.enable_steady_tick(REDRAW);
    bar
}
