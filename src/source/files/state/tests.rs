//! Last good state as a table: what is written, what is active, what is told.

use std::sync::LazyLock;

use super::*;

/// Building one takes long without optimisation.
static VALIDATOR: LazyLock<Arc<Validator>> = LazyLock::new(Arc::default);

const START: Duration = Duration::from_secs(0);

/// A directory under test with its clock.
struct Bed {
    state: State,
    begin: Instant,
    now: Duration,
}

impl Bed {
    fn new() -> Self {
        Self { state: State::with(Arc::clone(&VALIDATOR), Inputs::default()), begin: Instant::now(), now: START }
    }

    fn at(&self) -> Instant {
        self.begin + self.now
    }

    fn write(&mut self, file: &str, text: &str) -> bool {
        let at = self.at();
        self.state.apply(vec![(file.into(), Reading::Content(text.as_bytes().to_vec()))], at)
    }

    fn reading(&mut self, file: &str, reading: Reading) -> bool {
        let at = self.at();
        self.state.apply(vec![(file.into(), reading)], at)
    }

    fn wait(&mut self, milliseconds: u64) -> bool {
        self.now += Duration::from_millis(milliseconds);
        let at = self.at();
        self.state.tick(at)
    }

    /// Services as `namespace/name:port`, and diagnostics as `file:line reason: path: effect`.
    fn result(&mut self) -> (Vec<String>, Vec<String>) {
        let (inputs, diagnostics) = self.state.build();
        let services = inputs.objects.services.iter().map(|(name, sourced)| {
            let port = sourced.object.ports.first().map_or(0, |port| port.port);
            format!("{name}:{port}")
        });
        let said = diagnostics.iter().map(|diagnostic| {
            let origin = diagnostic.origin.as_ref().expect("diagnostics of files have a place");
            let Diagnostic { reason, path, effect, .. } = diagnostic;
            format!("{}:{} {reason}: {path}: {effect}", origin.file.display(), origin.line)
        });
        (services.collect(), said.collect())
    }
}

fn service(name: &str, port: impl std::fmt::Display) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports: [{{port: {port}}}]\n")
}

fn two(first: &str, second: &str) -> String {
    format!("{first}---\n{second}")
}

#[test]
fn a_bad_version_never_takes_away_what_serves() {
    const KEPT: &str = "its last good version stays active";
    const FILE_KEPT: &str = "the file keeps its last good content";
    const STANDS: &str = "it is left out, what stood here before stays active";
    let broken = "a: [1\n";
    let (a, b) = (service("a", 1), service("b", 1));
    let (a2, b2) = (service("a", 2), service("b", 2));
    // Name, content before, content after, active objects, what is said.
    let cases: Vec<(&str, String, String, &[&str], Vec<String>)> = vec![
        ("good to good", two(&a, &b), two(&a2, &b2), &["default/a:2", "default/b:2"], vec![]),
        ("removed document", two(&a, &b), b.clone(), &["default/b:1"], vec![]),
        (
            "syntax error in one document: the file keeps its content",
            two(&a, &b),
            two(broken, &b2),
            &["default/a:1", "default/b:1"],
            vec![format!("f.yaml:1 YamlSyntax: : {FILE_KEPT}")],
        ),
        (
            "syntax error from the begin: the other documents serve",
            String::new(),
            two(broken, &b),
            &["default/b:1"],
            vec!["f.yaml:1 YamlSyntax: : the other documents of the file are active".to_owned()],
        ),
        (
            "broken schema: the object keeps its version, the rest moves on",
            two(&a, &b),
            two(&service("a", "x"), &b2),
            &["default/a:1", "default/b:2"],
            vec![format!("f.yaml:5 Invalid: spec.ports[0].port: {KEPT}")],
        ),
        (
            "bound broken",
            two(&a, &b),
            two(&b2, &service("a", 70_000)),
            &["default/a:1", "default/b:2"],
            vec![format!("f.yaml:11 Invalid: spec.ports[0].port: {KEPT}")],
        ),
        (
            "broken schema from the begin: left out",
            String::new(),
            two(&service("a", "x"), &b),
            &["default/b:1"],
            vec!["f.yaml:5 Invalid: spec.ports[0].port: it is left out".to_owned()],
        ),
        (
            "unknown field",
            a.clone(),
            format!("{a2}wrong: 1\n"),
            &["default/a:1"],
            vec![format!("f.yaml:6 Invalid: wrong: {KEPT}")],
        ),
        (
            "kind misspelt: what stood there stays",
            two(&a, &b),
            two(&a2.replace("Service", "Servise"), &b2),
            &["default/a:1", "default/b:2"],
            vec![format!("f.yaml:2 Invalid: kind: {STANDS}")],
        ),
        (
            "kind misspelt, but the object stands elsewhere",
            two(&a, &b),
            two(&a2.replace("Service", "Servise"), &service("a", 3)),
            &["default/a:3"],
            vec!["f.yaml:2 Invalid: kind: it is left out".to_owned()],
        ),
        (
            "not an object",
            two(&a, &b),
            two("- 1\n", &b2),
            &["default/a:1", "default/b:2"],
            vec![format!("f.yaml:1 Invalid: : {STANDS}")],
        ),
        (
            "another namespace is another object",
            a.clone(),
            a2.replace("name: a", "name: a, namespace: other"),
            &["other/a:2"],
            vec![],
        ),
    ];
    for (name, before, after, objects, said) in cases {
        let mut bed = Bed::new();
        bed.write("f.yaml", &before);
        bed.result();
        assert!(bed.write("f.yaml", &after), "{name}: a new content is a change");
        assert_eq!(bed.result(), (objects.iter().map(ToString::to_string).collect(), said), "{name}");
        let again = bed.result();
        assert_eq!(again, bed.result(), "{name}: building twice is the same");
        bed.write("f.yaml", &before);
        assert!(bed.result().1.is_empty() || before.is_empty(), "{name}: the old content resolves everything");
    }
}

#[test]
fn a_kept_version_survives_several_bad_ones_and_ends_with_its_object() {
    let mut bed = Bed::new();
    bed.write("f.yaml", &two(&service("a", 1), &service("b", 1)));
    bed.result();
    for port in ["x", "70000", "{}"] {
        bed.write("f.yaml", &two(&service("a", port), &service("b", 2)));
        assert_eq!(bed.result().0, ["default/a:1", "default/b:2"], "{port}");
    }
    bed.write("f.yaml", &service("b", 2));
    assert_eq!(bed.result(), (vec!["default/b:2".to_owned()], vec![]));
    bed.write("f.yaml", &two(&service("a", "x"), &service("b", 2)));
    assert_eq!(bed.result().0, ["default/b:2"], "what was removed is not remembered");
}

#[test]
fn the_second_of_two_equal_objects_is_refused_with_both_places() {
    let mut bed = Bed::new();
    bed.write("b.yaml", &service("a", 2));
    bed.write("a.yaml", &two(&service("x", 1), &service("a", 1)));
    let (inputs, diagnostics) = bed.state.build();
    assert_eq!(inputs.objects.services.len(), 2);
    let [diagnostic] = diagnostics.as_slice() else { panic!("{diagnostics:?}") };
    assert_eq!(
        diagnostic.to_string(),
        "b.yaml:1:1: Service default/a: Duplicate: found a second object with this identity, expected one Service \
         default/a; the first is at a.yaml:7; the first one counts, this one is left out"
    );
    // The first one goes: the second takes its place, without having been read again.
    bed.write("a.yaml", &service("x", 1));
    assert_eq!(bed.result(), (vec!["default/a:2".to_owned(), "default/x:1".to_owned()], vec![]));
    // Two in one file: later by document.
    bed.write("a.yaml", &two(&service("x", 1), &service("x", 2)));
    assert_eq!(bed.result().0, ["default/a:2", "default/x:1"]);
    // A first one that is not good still has the name.
    bed.write("a.yaml", &two(&service("x", "z"), &service("x", 2)));
    assert_eq!(bed.result().0, ["default/a:2", "default/x:1"], "its last good version");
}

#[test]
fn emptied_and_vanished_files_count_after_fifty_milliseconds_of_quiet() {
    for reading in [Reading::Gone, Reading::Content(Vec::new()), Reading::Content(b" \n\t".to_vec())] {
        let mut bed = Bed::new();
        bed.write("f.yaml", &service("a", 1));
        bed.result();
        assert!(!bed.reading("f.yaml", reading.clone()), "{reading:?}: nothing changes yet");
        assert!(!bed.wait(49));
        assert_eq!(bed.result().0, ["default/a:1"]);
        assert!(!bed.reading("f.yaml", reading.clone()), "quiet begins anew with each event");
        assert!(!bed.wait(49));
        assert_eq!(bed.state.deadline(), Some(bed.at() + Duration::from_millis(1)));
        assert!(bed.wait(1));
        assert_eq!(bed.result(), (vec![], vec![]), "{reading:?}");
        assert_eq!(bed.state.deadline(), None);
        // Back within the time: nothing has happened.
        assert!(bed.write("f.yaml", &service("a", 1)));
        assert!(!bed.reading("f.yaml", reading.clone()));
        bed.wait(20);
        assert!(!bed.write("f.yaml", &service("a", 1)), "the same content again");
        assert!(!bed.wait(1000), "{reading:?}");
        assert_eq!(bed.result().0, ["default/a:1"]);
    }
}

#[test]
fn what_cannot_be_read_keeps_its_content_and_is_said() {
    let mut bed = Bed::new();
    bed.write("f.yaml", &service("a", 1));
    bed.result();
    assert!(bed.reading("f.yaml", Reading::Unreadable("permission denied".to_owned())));
    assert!(!bed.reading("f.yaml", Reading::Unreadable("permission denied".to_owned())), "said once");
    let said = "f.yaml:0 Unreadable: : the file keeps its last good content".to_owned();
    assert_eq!(bed.result(), (vec!["default/a:1".to_owned()], vec![said]));
    assert!(bed.write("f.yaml", &service("a", 1)), "the same content ends the problem");
    assert_eq!(bed.result(), (vec!["default/a:1".to_owned()], vec![]));
    assert!(bed.reading("f.yaml", Reading::Content(b"a: 1\nb: \xff\n".to_vec())));
    assert_eq!(bed.result().1, ["f.yaml:2 YamlSyntax: : the file keeps its last good content"]);
    assert!(bed.reading("g.yaml", Reading::Unreadable("permission denied".to_owned())));
    assert_eq!(bed.result().1[1], "g.yaml:0 Unreadable: : nothing of the file is active");
}

#[test]
fn a_lost_directory_loses_nothing() {
    let mut bed = Bed::new();
    bed.write("f.yaml", &service("a", 1));
    bed.result();
    bed.reading("f.yaml", Reading::Gone);
    assert!(bed.state.directory_lost(Path::new("dir"), "no such directory".to_owned()));
    assert!(!bed.state.directory_lost(Path::new("dir"), "no such directory".to_owned()), "said once");
    assert!(!bed.wait(1000), "its files have not vanished one by one");
    let said = "dir:0 DirectoryUnreadable: : all files keep their last good content".to_owned();
    assert_eq!(bed.result(), (vec!["default/a:1".to_owned()], vec![said]));
    let at = bed.at();
    assert!(bed.state.apply(Vec::new(), at), "it is back");
    assert_eq!(bed.result(), (vec!["default/a:1".to_owned()], vec![]));
}

#[test]
fn lists_are_taken_apart_and_each_object_has_its_place() {
    let mut bed = Bed::new();
    let item = |name: &str, port: &str| {
        format!(
            "- apiVersion: v1\n  kind: Service\n  metadata: {{name: {name}}}\n  spec: {{ports: [{{port: {port}}}]}}\n"
        )
    };
    let list = |a: &str, b: &str| format!("apiVersion: v1\nkind: List\nitems:\n{}{}", item("a", a), item("b", b));
    bed.write("f.yaml", &list("1", "1"));
    let (inputs, _) = bed.state.build();
    let lines: Vec<u32> = inputs
        .objects
        .services
        .values()
        .map(|sourced| sourced.origin.as_ref().expect("objects of files have a place").line)
        .collect();
    assert_eq!(lines, [4, 8]);
    bed.write("f.yaml", &list("2", "x"));
    let (objects, said) = bed.result();
    assert_eq!(objects, ["default/a:2", "default/b:1"]);
    assert_eq!(said, ["f.yaml:11 Invalid: spec.ports[0].port: its last good version stays active"]);
    bed.write("g.json", "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\",\n \"metadata\": {\"name\": \"n\"}}\n");
    assert_eq!(bed.state.build().0.objects.namespaces.len(), 1);
}

#[test]
fn unchanged_documents_are_neither_parsed_nor_validated_again() {
    let mut bed = Bed::new();
    let many: Vec<String> = (0..3 * ALONE).map(|n| service(&format!("s{n}"), 1)).collect();
    bed.write("f.yaml", &many.join("---\n"));
    let before = bed.state.build().0;
    assert_eq!(before.objects.services.len(), many.len());
    // A comment in front moves all lines but changes no document; one document is new.
    bed.write("f.yaml", &format!("# moved\n---\n{}---\n{}", many.join("---\n"), service("new", 1)));
    // And a renamed file brings the same documents.
    bed.state.apply(vec![("g.yaml".into(), Reading::Content(service("other", 1).into_bytes()))], Instant::now());
    let after = bed.state.build().0;
    assert_eq!(after.objects.services.len(), many.len() + 2);
    let mut moved = 0;
    for (name, sourced) in &before.objects.services {
        let now = after.objects.services.get(name).expect("a Service");
        let shared = Arc::ptr_eq(&sourced.object, &now.object);
        // The first document has another hash: a separator now stands in front of it.
        assert!(shared || &*name.name == "s0", "{name} was read again");
        moved += usize::from(shared && sourced.origin != now.origin);
    }
    assert_eq!(moved, many.len() - 1, "lines follow the edit");
}

#[test]
fn objects_of_other_kinds_are_skipped_with_one_note_for_each_file() {
    let mut bed = Bed::new();
    let foreign = |version: &str, kind: &str| format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n");
    let text = [foreign("apps/v1", "Deployment"), service("a", 1), foreign("v1", "Pod"), foreign("v1", "Pod")];
    bed.write("app.yaml", &text.join("---\n"));
    bed.write("other.yaml", &foreign("batch/v1", "Job"));
    let (inputs, diagnostics) = bed.state.build();
    assert_eq!(inputs.objects.services.len(), 1);
    let told: Vec<_> = diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "app.yaml:1:1: KindNotRead: 3 objects of kinds that tidegate does not read: Deployment (apps/v1), \
             Pod (v1); they are skipped",
            "other.yaml:1:1: KindNotRead: 1 object of kinds that tidegate does not read: Job (batch/v1); it is skipped",
        ]
    );
    assert!(diagnostics.iter().all(|diagnostic| diagnostic.severity == Severity::Note));
}
