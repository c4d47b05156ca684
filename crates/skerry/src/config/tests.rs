use super::*;

const FILE: &str = "/etc/skerry/skerry.toml";

/// What a file, variables and flags make together.
fn load_all(
    file: Option<&str>,
    variables: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<(Config, Vec<Setting>)> {
    let flags: BTreeMap<_, _> = flags
        .iter()
        .map(|(name, text)| (*name, (*text).to_owned()))
        .collect();
    let variable = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, text)| (*text).to_owned())
    };
    let sources = Sources {
        flags: &flags,
        variable: &variable,
        file: file.map(|text| (FILE.into(), text.to_owned())),
    };
    Ok((load(&sources)?, read(&sources)?.1))
}

fn says(error: Result<(Config, Vec<Setting>)>, words: &[&str]) {
    let error = format!("{:#}", error.map(|_| ()).unwrap_err());
    assert!(!error.contains('\n'), "one line: {error}");
    for words in words {
        assert!(error.contains(words), "{error:?} should hold {words:?}");
    }
}

fn file_error(text: &str, words: &[&str]) {
    says(load_all(Some(text), &[], &[]), words);
}

fn origin<'a>(settings: &'a [Setting], name: &str) -> &'a Origin {
    let found = settings.iter().find(|setting| setting.key.name == name);
    &found.unwrap().origin
}

type Case<'a> = (
    Option<&'a str>,
    &'a [(&'a str, &'a str)],
    &'a [(&'static str, &'a str)],
    &'a str,
    Origin,
);

#[test]
fn a_flag_beats_a_variable_beats_a_file_beats_the_default() {
    let file = Some("[listen]\ns3 = 'file:1'\n");
    let env: &[_] = &[("SKERRY_S3_LISTEN", "env:2")];
    let flag: &[_] = &[("listen.s3", "flag:3")];
    let cases: [Case; 6] = [
        (None, &[], &[], "", Origin::Default),
        (file, &[], &[], "file:1", Origin::File(FILE.into())),
        (
            file,
            env,
            &[],
            "env:2",
            Origin::Variable("SKERRY_S3_LISTEN"),
        ),
        (file, env, flag, "flag:3", Origin::Flag("s3-listen")),
        (
            None,
            env,
            &[],
            "env:2",
            Origin::Variable("SKERRY_S3_LISTEN"),
        ),
        (file, &[], flag, "flag:3", Origin::Flag("s3-listen")),
    ];
    for (file, env, flag, expected, from) in cases {
        let (config, settings) = load_all(file, env, flag).unwrap();
        assert_eq!(config.node.listen.s3, expected);
        assert_eq!(*origin(&settings, "listen.s3"), from);
        assert_eq!(*origin(&settings, "listen.node"), Origin::Default);
        assert_eq!(settings.len(), KEYS.len());
    }
}

#[test]
fn an_empty_variable_says_nothing() {
    let (config, settings) = load_all(None, &[("SKERRY_SITE_NAME", "")], &[]).unwrap();
    assert_eq!(config.node.site_name, "site");
    assert_eq!(*origin(&settings, "site.name"), Origin::Default);
}

#[test]
fn a_whole_file_is_understood() {
    let file = "
data = '/srv/skerry'
insecure_http = true
[site]
name = 'north'
groups = 8
[listen]
s3 = '0.0.0.0:443'
advertise = '192.0.2.7:7301'
[tls]
certificate = 'door.pem'
key = '/run/keys/door.key'
[identity]
cache_ttl = '5m'
[objects]
inline_max = '16KiB'
block_size = '1MiB'
collect_after = '90s'
[s3]
domain = 'S3.example.com'
max_connections = 100
[log]
format = 'json'
level = 'debug'
[otel]
endpoint = 'https://collector.lan:4318'
headers_file = 'collector.headers'
sample_ratio = 0.25
";
    let (config, _) = load_all(Some(file), &[], &[]).unwrap();
    let node = &config.node;
    assert_eq!(config.data.as_deref(), Some(Path::new("/srv/skerry")));
    assert!(node.insecure_http);
    assert_eq!((node.site_name.as_str(), node.groups), ("north", 8));
    assert_eq!(node.listen.s3, "0.0.0.0:443");
    assert_eq!(node.listen.node, "", "as last time");
    assert_eq!(node.advertise.as_deref(), Some("192.0.2.7:7301"));
    let tls = node.tls.as_ref().unwrap();
    assert_eq!(
        tls.certificate,
        Path::new("/etc/skerry/door.pem"),
        "beside the file"
    );
    assert_eq!(tls.key, Path::new("/run/keys/door.key"));
    assert_eq!(node.identity_cache_ttl.as_secs(), 300);
    assert_eq!(node.gateway.inline_bytes, 16 << 10);
    assert_eq!(node.gateway.block_bytes, 1 << 20);
    assert_eq!(node.collect_after.as_secs(), 90);
    assert_eq!(node.s3_domain.as_deref(), Some("s3.example.com"));
    assert_eq!(node.s3_connections_max, 100);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.log_level, "debug");
    let collector = config.otel.endpoint.as_ref().unwrap();
    assert_eq!(collector.as_str(), "https://collector.lan:4318/");
    let headers = config.otel.headers_file.as_deref();
    assert_eq!(headers, Some(Path::new("/etc/skerry/collector.headers")));
    assert_eq!(config.otel.sample_ratio, 0.25);
}

#[test]
fn an_unknown_key_is_an_error_with_a_suggestion() {
    let cases = [
        (
            "[objects]\nblocksize = '1MiB'",
            "did you mean `objects.block_size`?",
        ),
        ("[objetcs]\nblock_size = '1MiB'", "did you mean `objects`?"),
        ("insecure-http = true", "did you mean `insecure_http`?"),
        (
            "[tls]\ninsecure_http = true",
            "did you mean `insecure_http`?",
        ),
        ("block_size = '1MiB'", "did you mean `objects.block_size`?"),
        ("[tls]\ncertifcate = 'a'", "did you mean `tls.certificate`?"),
        ("colour = 'red'", "`skerry config show` lists all keys"),
        ("[zebra]", "unknown key `zebra`"),
        ("tls = 'a'", "`tls` is a section"),
    ];
    for (text, words) in cases {
        file_error(text, &[FILE, words]);
    }
}

#[test]
fn a_bad_value_names_its_place_its_key_and_what_is_expected() {
    let size = "expected a size from 64KiB to 64MiB";
    let key = "objects.block_size";
    file_error("[objects]\nblock_size = '4MB'", &[FILE, key, "4MB", size]);
    file_error("[objects]\nblock_size = 1", &[FILE, key, size]);
    file_error("[objects]\nblock_size = [1]", &[FILE, key, "array", size]);
    let share = "expected a number from 0 to 1";
    file_error("[otel]\nsample_ratio = 1.5", &["otel.sample_ratio", share]);
    file_error("insecure_http = 'yes'", &["insecure_http", "true or false"]);
    file_error("a = 1\nb = = 2\n", &[FILE, "line 2"]);
    let env = [("SKERRY_OBJECTS_BLOCK_SIZE", "huge")];
    says(
        load_all(None, &env, &[(key, "4MiB")]),
        &["SKERRY_OBJECTS_BLOCK_SIZE=\"huge\"", size],
    );
    says(
        load_all(None, &[], &[("listen.s3", "7300")]),
        &["--s3-listen \"7300\"", "expected HOST:PORT"],
    );
}

#[test]
fn keys_that_belong_together_are_checked_together() {
    file_error("[tls]\ncertificate = 'a'", &["tls.key is not: set both"]);
    let key = [("SKERRY_TLS_KEY", "b")];
    assert!(load_all(Some("[tls]\ncertificate = 'a'"), &key, &[]).is_ok());
    file_error("[tls]\nkey = 'a'", &["tls.certificate is not: set both"]);
    let sizes = "[objects]\ninline_max = '128KiB'\nblock_size = '64KiB'";
    file_error(sizes, &["objects.inline_max is larger"]);
}

#[test]
fn the_defaults_of_the_table_are_those_of_the_code() {
    for key in KEYS {
        let Some(default) = key.default else { continue };
        let mut config = Config::default();
        let set = (key.set)(&mut config, default);
        assert!(set.is_some(), "{} is not as it expects itself", key.name);
        if key.name.starts_with("listen.") {
            // Nothing set means "as last time"; only a new folder gets what the table says.
            config.node.listen = config.node.listen_or(&settings::default_listen(0));
            assert_eq!(config.node.listen, settings::default_listen(0));
            continue;
        }
        let code = Config::default();
        assert_eq!(format!("{config:?}"), format!("{code:?}"), "{}", key.name);
    }
}

#[test]
fn names_are_never_used_twice() {
    for (at, key) in KEYS.iter().enumerate() {
        for other in &KEYS[at + 1..] {
            assert!(key.name != other.name && key.env != other.env && key.flag != other.flag);
        }
    }
}

#[test]
fn the_documentation_tells_every_key() {
    let text = include_str!("../../../../docs/configuration.md");
    for key in KEYS {
        let row = format!("| `{}` | `{}` | `--{}` |", key.name, key.env, key.flag);
        let line = text.lines().find(|line| line.starts_with(&row));
        let line = line.unwrap_or_else(|| panic!("docs/configuration.md needs a row {row}"));
        let default = key
            .default
            .map_or("none".into(), |text| format!("`{text}`"));
        assert!(
            line.contains(&format!("| {default} |")) || key.name == "data",
            "docs/configuration.md: the default of {} is {default}",
            key.name
        );
    }
}
