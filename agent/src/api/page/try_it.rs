//! The form on an agent's page: a job is ordered on the spot, signed by the reader's extension (NIP-07), or by the relay over its HTTP door.

use std::fmt::Write as _;

use relay_site::page::{PAYMENT_SECTION, escape};

use super::kind_label;
use crate::job::InputKind;
use crate::manifest::{Handler, Manifest, Param};
use crate::router::AgentEntry;

/// The script of the form, after that of payments.
pub(super) const SCRIPT: &str = include_str!("try_it.js");

/// The form. It is hidden until the script has made it work.
pub(super) fn form(entry: &AgentEntry) -> String {
    let Manifest { handlers, .. } = &entry.manifest;
    let mut out = format!("<form id=\"try\" hidden data-agent=\"{}\">\n", entry.pubkey);
    let hidden = if handlers.len() == 1 { " hidden" } else { "" };
    let _ = write!(out, "<div{hidden}><label for=\"kind\">Job</label>\n<select id=\"kind\">");
    for Handler { kind, .. } in handlers {
        let _ = write!(out, "<option value=\"{kind}\">{} ({kind})</option>", escape(&kind_label(*kind)));
    }
    out.push_str("</select></div>\n");
    for handler in handlers {
        fields(&mut out, handler);
    }
    out.push_str("<p class=\"buttons\"><button type=\"submit\">Send</button></p>\n<p id=\"signed\" class=\"dim\"></p>\n</form>\n");
    out.push_str(PAYMENT_SECTION);
    out.push_str(
        "<section id=\"result\" hidden aria-label=\"Result\"><h3>Result</h3><code></code></section>\n",
    );
    out
}

fn fields(out: &mut String, handler: &Handler) {
    let kind = handler.kind;
    let _ = writeln!(out, "<fieldset data-kind=\"{kind}\" hidden>");
    let required = if handler.inputs_min > 0 { " required" } else { "" };
    let _ = writeln!(
        out,
        "<label for=\"input-{kind}\">Input</label>\n<textarea id=\"input-{kind}\" rows=\"4\"{required}></textarea>"
    );
    let all = [InputKind::Text, InputKind::Url, InputKind::Event, InputKind::Job];
    let taken = all.iter().filter(|kind| handler.inputs.is_empty() || handler.inputs.contains(kind));
    let options: Vec<String> = taken
        .map(|kind| {
            let label = match kind {
                InputKind::Text => "text",
                InputKind::Url => "the URL of a text",
                InputKind::Event => "the id of an event",
                InputKind::Job => "the id of a job request",
            };
            format!("<option value=\"{}\">{label}</option>", kind.name())
        })
        .collect();
    let hidden = if options.len() == 1 { " hidden" } else { "" };
    let _ = writeln!(
        out,
        "<div{hidden}><label for=\"type-{kind}\">It is</label>\n<select id=\"type-{kind}\" data-type>{}</select></div>",
        options.concat()
    );
    for (at, (name, param)) in handler.params.iter().enumerate() {
        parameter(out, &format!("param-{kind}-{at}"), name, param);
    }
    out.push_str("</fieldset>\n");
}

fn parameter(out: &mut String, id: &str, name: &str, param: &Param) {
    let name = escape(name);
    let required = if param.required && param.default.is_none() { " required" } else { "" };
    let _ = writeln!(out, "<label for=\"{id}\"><bdi>{name}</bdi></label>");
    if param.values.is_empty() {
        let placeholder = escape(param.default.as_deref().unwrap_or_default());
        let _ = writeln!(
            out,
            "<input id=\"{id}\" data-param=\"{name}\" placeholder=\"{placeholder}\"{required}>"
        );
        return;
    }
    let _ = write!(out, "<select id=\"{id}\" data-param=\"{name}\"{required}>");
    if !param.required {
        out.push_str("<option value=\"\">as usual</option>");
    }
    for value in &param.values {
        let value = escape(value);
        let _ = write!(out, "<option value=\"{value}\">{value}</option>");
    }
    out.push_str("</select>\n");
}
