//! The node's number on every line, for those who read the logs of a site together.

use std::fmt;

use ids::NodeId;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Lines as another format makes them, with the node's number.
pub struct OfNode<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for OfNode<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        match super::node() {
            Some(node) => writer.write_str(&named(&line, node)),
            None => writer.write_str(&line),
        }
    }
}

/// JSON gets a field, text a word at its end.
fn named(line: &str, node: NodeId) -> String {
    match line.strip_prefix('{') {
        Some(rest) => format!("{{\"node\":{},{rest}", node.0),
        None => format!("{} node={}\n", line.trim_end_matches('\n'), node.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_node_and_stays_a_line() {
        let text = named("2026-01-01T00:00:00Z  INFO it is ready n=1\n", NodeId(3));
        assert_eq!(text, "2026-01-01T00:00:00Z  INFO it is ready n=1 node=3\n");
        let json = named(
            "{\"level\":\"INFO\",\"fields\":{\"node\":\"4\"}}\n",
            NodeId(3),
        );
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&read["node"], &read["level"]), (&3.into(), &"INFO".into()));
        assert!(json.ends_with("}\n"));
    }
}
