//! What the command line takes, and how it ends.

use clap::CommandFactory;

use super::*;

fn parse(words: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("warrend").chain(words.split_whitespace()))
}

fn exit(words: &[&str]) -> Exit {
    run(std::iter::once("warrend").chain(words.iter().copied()).map(OsString::from))
}

#[test]
fn the_command_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn what_is_documented_is_taken() {
    for words in [
        "serve",
        "serve --config w.yaml",
        "--config w.yaml serve",
        "check",
        "check dir --output json",
        "schema",
        "plan",
        "plan --offline 3.10.8 --output json --retire a --retire b.c",
        "queues",
        "queues invoices --output csv --url http://h:1",
        "items list --queue q --state queued,exception --state on_hold --kind it --reference r --label a=b --label c=d=e --due t \
         --since t --q x --sort due --limit 1000 --cursor c --output json",
        "items show ID",
        "items show ID --payload",
        "enqueue q -",
        "enqueue q --file f --reference r --priority high --name n --due-at t --expires-at t --not-before t --label a=b",
        "enqueue q --payload -1",
        "import a.csv b.ndjson --queue q --format uipath --map a:reference --map b:payload.b:number --delimiter ; --time-zone Europe/Oslo \
         --dates dmy --dry-run --output json",
        "import a.csv --queue q --atomic",
        "import a.csv --queue q --resume",
        "import a.csv --queue q --again",
        "export items --queue q --state exception --kind it --label a=b --since t --payload --raw --format ndjson --output f --resume",
        "export attempts --format csv",
        "mirror rebuild --output json",
        "parked --limit 5 --cursor c --output csv",
        "access --daemon warrend",
        "access --producer erp=a,b.c --producer x=* --reply-queue erp=reply.erp --robot r=inv* --daemon d --apply --output json",
        "bench",
        "bench --items 300 --rounds 1 --size 64B --rate 100 --seconds 1 --output csv",
    ] {
        assert!(parse(words).is_ok(), "{words}: {}", parse(words).unwrap_err());
    }
}

#[test]
fn what_is_not_understood_ends_with_64() {
    for words in [
        "",
        "dance",
        "serve --colour",
        "items",
        "items list --state done",
        "import a.csv",
        "import --queue q",
        "import a.csv --queue q --map a:nowhere",
        "import a.csv --queue q --time-zone Mars",
        "import a.csv --queue q --delimiter x",
        "import a.csv --queue q --resume --again",
        "import a.csv --queue q --resume --dry-run",
        "export",
        "export items --format xml",
        "export items --resume",
        "export attempts --payload",
        "items list --kind odd",
        "items list --sort size",
        "items list --limit 0",
        "items list --limit 1001",
        "items list --label oslo",
        "items show",
        "items show ID --payload --output json",
        "enqueue",
        "enqueue q",
        "enqueue q - --payload 1",
        "enqueue q --payload 1 --file f",
        "enqueue q stdin",
        "check --output csv",
        "plan --output csv",
        "plan --offline new",
        "plan --offline 3.9",
        "plan --retire",
        "queues --url ftp://h",
        "access",
        "access --apply",
        "access --producer erp",
        "access --robot =a",
        "access --robot r=a --reply-queue r=reply.r",
        "access --daemon d --output csv",
        "bench --rounds 0",
        "bench --items none",
        "bench --size 8B",
        "bench --fast",
    ] {
        assert_eq!(exit(&words.split_whitespace().collect::<Vec<_>>()), Exit::Usage, "{words}");
    }
}

#[test]
fn every_help_text_tells_the_exit_codes() {
    fn leaves(command: &clap::Command) -> Vec<clap::Command> {
        let inner: Vec<clap::Command> = command.get_subcommands().flat_map(leaves).collect();
        if inner.is_empty() { vec![command.clone()] } else { inner }
    }
    for mut command in leaves(&Cli::command()).into_iter().chain([Cli::command()]) {
        let help = command.render_long_help().to_string();
        assert!(
            ["daemon", "broker"].iter().any(|whom| help.contains(&format!("69  the {whom} cannot be reached"))),
            "{help}"
        );
    }
}

#[test]
fn the_codes_are_those_documented() {
    let codes = [Exit::Done, Exit::Failure, Exit::Usage, Exit::Data, Exit::Unreachable, Exit::Settings].map(Exit::code);
    assert_eq!(Exit::Changes.code(), 2);
    assert_eq!(codes, [0, 1, 64, 65, 69, 78]);
}

#[test]
fn each_failure_has_its_code() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    assert_eq!(exit(&["--config", "no/such/file.yaml", "serve"]), Exit::Settings);
    assert_eq!(exit(&["--config", "no/such/file.yaml", "queues"]), Exit::Settings);
    assert_eq!(exit(&["check", "no/such/directory"]), Exit::Data);
    assert_eq!(exit(&["access", "--producer", "erp=no-such-queue"]), Exit::Data);
    // Port 1 takes no connections; nothing is sent to it.
    assert_eq!(exit(&["queues", "--url", "http://127.0.0.1:1"]), Exit::Unreachable);
    assert_eq!(exit(&["enqueue", "q", "--payload", "{", "--url", "http://127.0.0.1:1"]), Exit::Data);
}
