//! Modules import only along the arrows of the architecture, and the files inside a module never in circles.
//!
//! Reads the production text of every file in `src/`: all paths (`crate::…`, `super::…`, `self::…`, and those that begin
//! with a child module), in imports, in code and in macros; items for tests are left out. An arrow that is missing here
//! is either wrong or worth a thought before it is added; one that nobody uses is a door left open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// For each module of `lib.rs`: what it may use inside the crate. `reason` may be used by all.
const ARROWS: &[(&str, &[&str])] = &[
    ("reason", &[]),
    ("fields", &[]),
    ("text", &[]),
    ("settings", &["text"]),
    ("readiness", &[]),
    ("drain", &[]),
    ("sockets", &[]),
    ("stream", &[]),
    ("timer", &[]),
    ("http1", &["fields", "stream", "timer"]),
    ("api", &["text"]),
    ("model", &[]),
    ("telemetry", &[]),
    ("kubernetes", &[]),
    ("kinds", &["api", "model"]),
    ("compile", &["api", "model", "kinds", "fields", "text"]),
    ("source", &["api", "model", "kinds", "compile", "telemetry", "kubernetes", "text"]),
    ("status", &["api", "model", "kinds", "compile", "source", "telemetry", "kubernetes"]),
    ("balance", &["model"]),
    ("filter", &["fields", "model", "telemetry"]),
    ("tls", &["model"]),
    ("fetch", &["model", "tls"]),
    ("live", &["model", "balance", "filter", "tls", "telemetry"]),
    (
        "proxy",
        &[
            "fields",
            "live",
            "balance",
            "filter",
            "model",
            "http1",
            "sockets",
            "drain",
            "stream",
            "settings",
            "telemetry",
            "timer",
            "tls",
        ],
    ),
    ("keys", &["fetch", "filter", "live", "model", "telemetry"]),
    ("health", &["live", "balance", "model", "http1", "stream", "drain", "telemetry", "tls"]),
    ("admin", &["live", "balance", "model", "sockets", "readiness", "settings", "telemetry"]),
    ("probe", &[]),
    ("sidecar", &["api", "model", "kinds", "compile", "settings", "text"]),
    ("forward_proxy", &["drain", "fields", "telemetry"]),
    ("cli", &["inject", "probe", "settings", "sidecar", "text"]),
    ("check", &["compile", "source", "text"]),
    ("inject", &["compile", "kinds", "model", "sidecar", "source", "text"]),
    (
        "app",
        &[
            "admin",
            "api",
            "compile",
            "sockets",
            "drain",
            "fetch",
            "filter",
            "forward_proxy",
            "health",
            "keys",
            "kinds",
            "kubernetes",
            "live",
            "model",
            "proxy",
            "readiness",
            "settings",
            "sidecar",
            "source",
            "status",
            "stream",
            "telemetry",
        ],
    ),
    ("demo", &["api", "app", "http1", "cli", "source", "compile", "kinds", "model"]),
];

/// A file of the crate as a module, such as `["proxy", "connection"]`; `lib.rs` and `main.rs` are no module.
type Module = Vec<String>;

/// The production text of the crate: each file with the files and top modules that it names.
struct Crate {
    /// What the files name, by file.
    uses: BTreeMap<Module, BTreeSet<Module>>,
}

impl Crate {
    /// Reads all files, given as modules with their text.
    fn new(files: &BTreeMap<Module, String>) -> Self {
        let names: BTreeSet<&Module> = files.keys().collect();
        let mut uses = BTreeMap::new();
        for (module, text) in files {
            let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", module.join("/")));
            let mut paths = Paths { inside: module.clone(), found: Vec::new() };
            paths.visit_file(&file);
            let of_file = paths.found.iter().filter_map(|path| resolve(&names, path)).filter(|used| used != module);
            uses.insert(module.clone(), of_file.collect());
        }
        Self { uses }
    }

    /// Pairs of top modules of which the first uses the second.
    fn arrows(&self) -> BTreeSet<(&str, &str)> {
        let pairs = self.uses.iter().flat_map(|(from, used)| used.iter().map(|to| (from[0].as_str(), to[0].as_str())));
        pairs.filter(|(from, to)| from != to).collect()
    }

    /// Sets of files of one module each of which leads to every other, sorted.
    fn circles(&self) -> Vec<Vec<String>> {
        let reach: BTreeMap<&Module, BTreeSet<&Module>> =
            self.uses.keys().map(|module| (module, self.reachable(module))).collect();
        let mut circles = BTreeSet::new();
        for (module, reached) in &reach {
            let members = reached.iter().filter(|other| reach[**other].contains(module));
            let names: Vec<String> = members.map(|member| member.join("/")).collect();
            if names.len() > 1 {
                circles.insert(names);
            }
        }
        circles.into_iter().collect()
    }

    /// The files of the same top module that a file leads to; itself only by a circle.
    fn reachable<'a>(&'a self, from: &'a Module) -> BTreeSet<&'a Module> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(module) = open.pop() {
            for used in self.uses.get(module).into_iter().flatten().filter(|used| used[0] == from[0]) {
                if reached.insert(used) {
                    open.push(used);
                }
            }
        }
        reached
    }
}

/// The file that a path leads to: the longest beginning of it that is one.
fn resolve(files: &BTreeSet<&Module>, path: &[String]) -> Option<Module> {
    (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|module| files.contains(module))
}

/// Collects the paths of a file, each from the root of the crate.
struct Paths {
    /// The module that is being read.
    inside: Module,
    found: Vec<Vec<String>>,
}

impl Paths {
    /// Takes down a path as it is written.
    fn add(&mut self, path: &[String]) {
        let Some(first) = path.first() else { return };
        let ups = path.iter().take_while(|part| *part == "super").count();
        let absolute = match first.as_str() {
            "crate" => path[1..].to_vec(),
            "self" => [&self.inside[..], &path[1..]].concat(),
            "super" if ups > self.inside.len() => return,
            "super" => [&self.inside[..self.inside.len() - ups], &path[ups..]].concat(),
            // A child module, or another crate: which one, the list of files tells.
            _ => [&self.inside[..], path].concat(),
        };
        self.found.push(absolute);
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => self.tree(&[before, &[path.ident.to_string()]].concat(), &path.tree),
            syn::UseTree::Name(name) => self.add(&[before, &[name.ident.to_string()]].concat()),
            syn::UseTree::Rename(name) => self.add(&[before, &[name.ident.to_string()]].concat()),
            syn::UseTree::Glob(_) => self.add(before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(before, item)),
        }
    }
}

/// Whether an item is there for tests alone.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_test = |meta: &syn::MetaList| meta.path.is_ident("cfg") && meta.tokens.to_string() == "test";
        attribute.meta.require_list().is_ok_and(is_test) || attribute.path().is_ident("test")
    })
}

/// The text of tokens without blanks and without what stands in quotes (documentation included).
fn without_strings(tokens: &str) -> String {
    let mut text = String::with_capacity(tokens.len());
    let (mut in_string, mut is_escaped) = (false, false);
    for c in tokens.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if in_string => is_escaped = true,
            '"' => in_string = !in_string,
            ' ' if !in_string => {}
            c if !in_string => text.push(c),
            _ => {}
        }
    }
    text
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.inside.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.inside.pop();
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_for_tests(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    /// Who may see an item is no import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        // One name alone is a variable or something that was imported.
        if path.segments.len() > 1 {
            let parts: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
            self.add(&parts);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        // What stands in a macro is not parsed: paths from the root and from above are looked for as text.
        let text = without_strings(&call.tokens.to_string());
        for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
            let parts: Vec<String> = word.split("::").map(str::to_owned).collect();
            if matches!(parts[0].as_str(), "crate" | "super" | "self") && parts.len() > 1 {
                self.add(&parts);
            }
        }
        visit::visit_macro(self, call);
    }
}

fn read_folder(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_folder(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// All files of `src/` but those of tests.
fn files() -> BTreeMap<Module, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    read_folder(&src, &mut paths);
    let mut files = BTreeMap::new();
    for path in paths {
        let relative = path.strip_prefix(&src).expect("below src").with_extension("");
        let module: Module = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let is_root = module.len() == 1 && matches!(module[0].as_str(), "lib" | "main");
        if !is_root && !module.iter().any(|part| part == "tests") {
            files.insert(module, fs::read_to_string(&path).expect("a readable file"));
        }
    }
    files
}

#[test]
fn modules_import_only_downwards() {
    let files = files();
    let all = Crate::new(&files);
    let mut wrong = Vec::new();
    let is_allowed =
        |from: &str, to: &str| ARROWS.iter().any(|(module, allowed)| *module == from && allowed.contains(&to));
    for module in files.keys().map(|module| module[0].as_str()).collect::<BTreeSet<_>>() {
        if !ARROWS.iter().any(|(known, _)| *known == module) {
            wrong.push(format!("module {module} has no line in ARROWS"));
        }
    }
    let arrows = all.arrows();
    for (from, to) in &arrows {
        if *to != "reason" && !is_allowed(from, to) {
            let users = all.uses.iter().filter(|(file, used)| file[0] == *from && used.iter().any(|one| one[0] == *to));
            let users: Vec<_> = users.map(|(file, _)| file.join("/")).collect();
            wrong.push(format!("{from} uses {to}, in {}", users.join(", ")));
        }
    }
    for (from, allowed) in ARROWS {
        for to in *allowed {
            if !arrows.contains(&(*from, *to)) {
                wrong.push(format!("{from} may use {to} and does not: take the arrow out"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that differ from the architecture:\n{}", wrong.join("\n"));
    assert!(files.len() > 100, "only {} files were found", files.len());
}

#[test]
fn allowed_arrows_have_no_circle() {
    let arrows = ARROWS.iter().map(|(from, allowed)| {
        let module = |name: &str| vec!["all".to_owned(), name.to_owned()];
        (module(from), allowed.iter().map(|to| module(to)).collect())
    });
    assert_eq!(Crate { uses: arrows.collect() }.circles(), <[Vec<String>; 0]>::default());
}

/// The inputs of the compiler may be filled by whatever can fill them: what answers requests is made of a snapshot, and what
/// compiles it takes the inputs as a value.
#[test]
fn nothing_that_answers_requests_knows_where_objects_come_from() {
    let reached = |from: &'static str| {
        let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(module) = open.pop() {
            let allowed = ARROWS.iter().find(|(known, _)| *known == module).expect("every module has a line").1;
            open.extend(allowed.iter().filter(|to| reached.insert(**to)));
        }
        reached
    };
    assert!(reached("check").contains("source"), "what is reached over others is seen");
    for from in ["proxy", "live", "balance", "filter", "tls", "health", "keys", "admin", "compile", "sidecar"] {
        for to in ["source", "kubernetes", "status", "app"] {
            assert!(!reached(from).contains(to), "{from} leads to {to}");
        }
    }
}

#[test]
fn files_of_a_module_import_in_no_circle() {
    assert_eq!(Crate::new(&files()).circles(), <[Vec<String>; 0]>::default());
}

/// A crate of files given as `path` and text.
fn made(files: &[(&str, &str)]) -> Crate {
    let files = files.iter().map(|(path, text)| (path.split('/').map(str::to_owned).collect(), (*text).to_owned()));
    Crate::new(&files.collect())
}

#[test]
fn the_reader_sees_every_form_of_a_path_and_no_text() {
    let text = r##"
        //! crate::prose
        use crate::{proxy::Worker, model::ids::{RouteId, RuleId as Rule}};
        use super::settings;
        pub use child::Thing;
        // use crate::comment;
        fn f() -> crate::telemetry::Entry {
            let text = "crate::text";
            say!("see crate::text::x, \" crate::comment", crate::admin::page());
            self::other::run(super::super::beyond::the::root)
        }
        #[cfg(test)]
        mod tests { use crate::app; }
        #[cfg(test)]
        use crate::demo::Bed;
        impl Thing { #[cfg(test)] fn only() { crate::check::run(); } }
        mod inline { fn g() { super::sibling::h(); super::super::drain::i(); } }
        fn below_the_tests() { crate::live::now(); }
    "##;
    let names =
        ["proxy", "model/ids", "settings", "here/child", "telemetry", "admin", "here/other", "app", "demo", "check"];
    let more = ["here/sibling", "drain", "live", "prose", "comment", "text"];
    let mut files: Vec<(&str, &str)> = names.into_iter().chain(more).map(|name| (name, "")).collect();
    files.push(("here", text));
    let all = made(&files);
    let used: Vec<String> = all.uses[&vec!["here".to_owned()]].iter().map(|module| module.join("/")).collect();
    let expected = [
        "admin",
        "drain",
        "here/child",
        "here/other",
        "here/sibling",
        "live",
        "model/ids",
        "proxy",
        "settings",
        "telemetry",
    ];
    assert_eq!(used, expected);
}

#[test]
fn circles_are_found_whatever_their_length() {
    let all = made(&[
        ("m/a", "use super::b::B;"),
        ("m/b", "use crate::m::c::C;"),
        ("m/c", "fn f() { super::a::g() }"),
        ("m/d", "use super::a::A;"),
        ("m", "pub use d::D; mod d;"),
        ("n", "use crate::o::O;"),
        ("o", "use crate::n::N;"),
        ("p", "mod q; use q::Q; pub struct P;"),
        ("p/q", "use super::P;"),
    ]);
    let circles: Vec<String> = all.circles().iter().map(|circle| circle.join(" ")).collect();
    // Circles of top modules are what the arrows forbid.
    assert_eq!(circles, ["m/a m/b m/c", "p p/q"]);
}
