use api_types::{Incarnation, Message, RaftId, Record, RecordId, Sequence};
use proptest::prelude::*;

use super::body::BodyTemplate;
use super::command::CommandTemplate;
use super::statement::{Dialect, Parameters, StatementTemplate};
use super::*;

fn record(payload: &[u8]) -> Record {
    let message = Message {
        topic: "site/kitchen/temp".to_owned(),
        client_id: "sensor-1".to_owned(),
        qos: 1,
        retain: true,
        payload: payload.to_vec().into(),
        timestamp_ms: 1_700_000_000_123,
        user_properties: vec![("unit".to_owned(), "C".to_owned()), ("unit".to_owned(), "F".to_owned())],
        ..Message::default()
    };
    Record { id: RecordId { raft_id: RaftId(1), incarnation: Incarnation(17), sequence: Sequence(3) }, message }
}

const JSON: &[u8] =
    br#"{"t":21.5,"n":7,"on":true,"s":"a \"b\"","none":null,"list":[{"v":1},{"v":2}],"o":{"a":{"b":"deep"}}}"#;

fn render(text: &str, payload: &[u8]) -> Result<String, String> {
    let template = Template::parse(text, TemplateContext::Plain).map_err(|error| error.to_string())?;
    let bytes = template.render(&record(payload)).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[test]
fn every_placeholder_has_its_value() {
    for (text, expect) in [
        ("", ""),
        ("plain {x} $5 $", "plain {x} $5 $"),
        ("${id}", "1-17-3"),
        ("${topic}", "site/kitchen/temp"),
        ("${topic[0]}-${topic[2]}", "site-temp"),
        ("${client_id}", "sensor-1"),
        ("${key}", "sensor-1"),
        ("${payload.t}", "21.5"),
        ("${payload.n}", "7"),
        ("${payload.on}", "true"),
        ("${payload.s}", "a \"b\""),
        ("${payload.o.a.b}", "deep"),
        ("${payload.o.a}", "{\"b\":\"deep\"}"),
        ("${payload.list[1].v}", "2"),
        ("${timestamp}", "1700000000123"),
        ("${timestamp_s}", "1700000000"),
        ("${date:%Y/%m/%d}", "2023/11/14"),
        ("${date:%H:%M:%S%.3f}", "22:13:20.123"),
        ("${qos}${retain}", "1true"),
        ("${user.unit}", "C"),
        ("$${id}", "${id}"),
        ("$$${id}", "$${id}"),
        ("$${${id}}", "${1-17-3}"),
        ("{payload}", "{payload}"),
    ] {
        assert_eq!(render(text, JSON).as_deref(), Ok(expect), "{text}");
    }
    assert_eq!(render("<${payload}>", b"hot").as_deref(), Ok("<hot>"));
    assert_eq!(render("${payload[1]}", b"[1,2]").as_deref(), Ok("2"));
}

#[test]
fn a_missing_value_is_the_records_own_failure() {
    for (text, payload, says) in [
        ("${topic[3]}", JSON, "fewer levels"),
        ("${payload.x}", JSON, "no such field"),
        ("${payload.t.x}", JSON, "no such field"),
        ("${payload.list[2]}", JSON, "no such field"),
        ("${payload.none}", JSON, "null in the payload"),
        ("${payload.t}", b"not json", "not JSON"),
        ("${payload.t}", b"\xff", "not JSON"),
        ("${user.site}", JSON, "no such user property"),
    ] {
        let error = render(text, payload).expect_err(text);
        assert!(error.contains(says) && error.contains(text), "{text}: {error}");
    }
    let mut nobody = record(b"");
    nobody.message.client_id.clear();
    let template = |text| Template::parse(text, TemplateContext::Plain).expect("valid");
    assert!(template("${client_id}").render(&nobody).is_err());
    assert_eq!(template("${key}").render(&nobody), Ok(b"site/kitchen/temp".to_vec()));
    nobody.message.timestamp_ms = u64::MAX;
    assert!(template("${date:%Y}").render(&nobody).is_err());
    let text = Template::parse("${payload}", TemplateContext::Plain).expect("valid");
    assert!(text.render_text(&record(b"\xff")).expect_err("binary").why.contains("UTF-8"));
    assert_eq!(text.render(&record(b"\xff")), Ok(vec![0xff]));
}

#[test]
fn wrong_templates_are_refused_when_they_are_compiled() {
    for (text, says) in [
        ("${}", "unknown placeholder ${}"),
        ("${nope}", "known placeholders: ${id} ${topic}"),
        ("${Topic}", "did you mean ${topic}?"),
        ("${ topic }", "did you mean ${topic}?"),
        ("${payloda.a}", "unknown placeholder"),
        ("${topic", "without its }"),
        ("${topic[x]}", "number from 0"),
        ("${topic[-1]}", "number from 0"),
        ("${topic[]}", "number from 0"),
        ("${payload.}", "path"),
        ("${payload.a..b}", "path"),
        ("${payload.a[b]}", "path"),
        ("${date:}", "missing"),
        ("${date:%Q}", "strftime"),
        ("${user.}", "missing"),
        ("${env:SLUICE_SECRET_X}", "no references"),
        ("${file:/etc/sluice/secrets/x}", "no references"),
    ] {
        let error = render(text, JSON).expect_err(text);
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn escaping_sees_values_only() {
    let template = Template::parse("a,b=${payload},${topic[0]}", TemplateContext::Plain).expect("valid");
    let escaped = template.render_with(&record(b"x,y"), |value| {
        Cow::Owned(value.iter().flat_map(|byte| if *byte == b',' { vec![b'\\', b','] } else { vec![*byte] }).collect())
    });
    assert_eq!(escaped, Ok(b"a,b=x\\,y,site".to_vec()));
    let text = template.render_text_with(&record(b"x,y"), |value| Cow::Owned(value.replace(',', "\\,")));
    assert_eq!(text.as_deref(), Ok("a,b=x\\,y,site"));
}

fn command(text: &str, payload: &[u8]) -> Result<Vec<String>, String> {
    let template = CommandTemplate::parse(text).map_err(|error| error.to_string())?;
    let arguments = template.render(&record(payload), payload).map_err(|error| error.to_string())?;
    let mut words = vec![template.name().to_owned()];
    words.extend(arguments.iter().map(|argument| String::from_utf8_lossy(argument).into_owned()));
    Ok(words)
}

#[test]
fn commands_are_cut_before_values_are_put_in() {
    for (text, payload, expect) in [
        ("LPUSH mqtt_messages {payload}", "a b \"c\" EX 1", vec!["LPUSH", "mqtt_messages", "a b \"c\" EX 1"]),
        ("SET ${topic[1]}:{tag} ${payload}", "", vec!["SET", "kitchen:{tag}", ""]),
        ("  XADD  s\t* f '{payload} x'  ", "p", vec!["XADD", "s", "*", "f", "p x"]),
        (r#"SET "a \"b\" \\ \n" '' x"y"z"#, "", vec!["SET", r#"a "b" \ \n"#, "", "xyz"]),
        ("SET $${a b}", "", vec!["SET", "${a", "b}"]),
        ("SET k ${date:%Y %m}", "", vec!["SET", "k", "2023 11"]),
        ("PING", "", vec!["PING"]),
    ] {
        let expect: Vec<String> = expect.into_iter().map(str::to_owned).collect();
        assert_eq!(command(text, payload.as_bytes()), Ok(expect), "{text}");
    }
    for (text, says) in [
        ("", "name a command"),
        ("   ", "name a command"),
        ("{payload}", "cannot be a placeholder"),
        ("x${topic} a", "cannot be a placeholder"),
        ("'' a", "cannot be a placeholder"),
        ("SET 'a", "quote that is not closed"),
        ("SET ${nope}", "unknown placeholder"),
        ("SET ${topic", "without its }"),
    ] {
        let error = command(text, b"").expect_err(text);
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn statements_bind_their_values() {
    let seed = StatementTemplate::parse("INSERT INTO t VALUES (?,?,?) -- what?", Dialect::Mysql).expect("valid");
    assert_eq!(seed.parameters, Parameters::Seed);
    assert_eq!(seed.sql, "INSERT INTO t VALUES (?,?,?) -- what?");
    for (dialect, text, sql, parameters) in [
        (Dialect::Mysql, "INSERT INTO t VALUES (${id},'?',${topic})", "INSERT INTO t VALUES (?,'?',?)", 2),
        (Dialect::Postgres, "INSERT INTO t VALUES (${id},'$9',${id})", "INSERT INTO t VALUES ($1,'$9',$2)", 2),
        (Dialect::Postgres, "SELECT a ? 'b', $$ $7 $$, ${id}", "SELECT a ? 'b', $$ $7 $$, $1", 1),
        (Dialect::Postgres, "SELECT $q$ ' $q$, ${id}", "SELECT $q$ ' $q$, $1", 1),
        (Dialect::Mysql, r"SELECT 'it\'s ?', `a?`, ${id} /* ? */ # ?", r"SELECT 'it\'s ?', `a?`, ? /* ? */ # ?", 1),
        (Dialect::Mysql, "SELECT 'a''?', ${id}", "SELECT 'a''?', ?", 1),
    ] {
        let statement = StatementTemplate::parse(text, dialect).expect(text);
        assert_eq!(statement.sql, sql);
        assert!(matches!(&statement.parameters, Parameters::Named(named) if named.len() == parameters), "{text}");
    }
    for (dialect, text, says) in [
        (Dialect::Mysql, "INSERT INTO t VALUES (?,?)", "found 2"),
        (Dialect::Mysql, "INSERT INTO t VALUES (?,?,?,?)", "found 4"),
        (Dialect::Mysql, "INSERT INTO t VALUES (?,${id})", "not both"),
        (Dialect::Mysql, "INSERT INTO t VALUES ('${id}')", "without quotes"),
        (Dialect::Mysql, "INSERT INTO t VALUES (1) -- ${id}", "without quotes"),
        (Dialect::Mysql, "INSERT INTO t VALUES ('a)", "not closed"),
        (Dialect::Mysql, "INSERT /* a", "not closed"),
        (Dialect::Postgres, "INSERT INTO t VALUES ($1,$2,$3,$4)", "$1 to $5"),
        (Dialect::Postgres, "INSERT INTO t VALUES ($1,$2,$3,$4,$5,$6)", "$1 to $5"),
        (Dialect::Postgres, "INSERT INTO t VALUES ($99999999999999999999999)", "$1 to $5"),
        (Dialect::Postgres, "SELECT $$ ${id} $$", "without quotes"),
        (Dialect::Postgres, "SELECT $$ a", "not closed"),
    ] {
        let error = StatementTemplate::parse(text, dialect).expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

fn body(text: &str, payload: &[u8]) -> Result<String, String> {
    let template = BodyTemplate::parse(text).map_err(|error| error.to_string())?;
    template.render(&record(payload)).map_err(|error| error.to_string())
}

#[test]
fn bodies_stay_json() {
    for (text, payload, expect) in [
        ("${payload}", JSON, std::str::from_utf8(JSON).expect("text")),
        ("${payload}", b"say \"hi\"", r#""say \"hi\"""#),
        (r#"{"p":"${payload}"}"#, b"say \"hi\"\n", r#"{"p":"say \"hi\"\n"}"#),
        (r#"{"a":[${qos},${payload.t},${retain}],"b":"${topic[0]}/x"}"#, JSON, r#"{"a":[1,21.5,true],"b":"site/x"}"#),
        ("{\n \"a\": ${timestamp}\n}", JSON, "{  \"a\": 1700000000123 }"),
        (r#"{"\"":"$${x}"}"#, JSON, r#"{"\"":"${x}"}"#),
    ] {
        assert_eq!(body(text, payload).as_deref(), Ok(expect), "{text}");
    }
    for text in [
        "",
        "{",
        "hello",
        "1${qos}",
        "${a}",
        r#"{"a":"\${topic}"}"#,
        r#"{"a":"\u00${qos}"}"#,
        "${qos}${qos}",
        "{\"a\":\"\n\"}",
    ] {
        assert!(body(text, JSON).is_err(), "{text}");
    }
    assert!(body("${payload}", b"\xff").expect_err("binary").contains("UTF-8"));
    assert!(body("\"${payload}\"", b"\xff").expect_err("binary").contains("UTF-8"));
    assert!(body("${payload.none}", JSON).expect_err("null").contains("null"));
}

proptest! {
    #[test]
    fn escaped_text_renders_as_itself(text in "[${}a-z\\[\\]:. ]{0,40}") {
        let escaped = text.replace("${", "$${");
        let rendered = render(&escaped, b"x");
        prop_assert_eq!(rendered, Ok(text));
    }

    #[test]
    fn any_text_compiles_or_is_refused(text in "\\PC{0,60}") {
        for kind in [
            TemplateKind::Text,
            TemplateKind::RedisCommand,
            TemplateKind::MysqlStatement,
            TemplateKind::PostgresStatement,
            TemplateKind::JsonBody,
        ] {
            let _ = check(kind, &text);
        }
    }

    #[test]
    fn payloads_of_any_bytes_come_out_whole(payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let template = Template::parse("<${payload}|${payload}>", TemplateContext::Plain).expect("valid");
        let expect = [b"<", &payload[..], b"|", &payload[..], b">"].concat();
        prop_assert_eq!(template.render(&record(&payload)), Ok(expect));
    }

    #[test]
    fn a_payload_is_one_argument_whatever_it_holds(payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let command = CommandTemplate::parse("SET \"k ${topic[0]}\" '{payload}' EX 5").expect("valid");
        let expect = vec![b"k site".to_vec(), payload.clone(), b"EX".to_vec(), b"5".to_vec()];
        prop_assert_eq!(command.render(&record(&payload), &payload), Ok(expect));
    }

    #[test]
    fn a_body_holds_what_was_put_in(payload in "\\PC{0,40}", quoted in "[\"\\\\\n\t{}a]{0,20}") {
        let text = format!("{payload}{quoted}");
        let body = BodyTemplate::parse(r#"{"a":"<${payload}>","b":[${user.unit}]}"#).expect("valid");
        let rendered = body.render(&record(text.as_bytes())).expect("text");
        let value: serde_json::Value = serde_json::from_str(&rendered).expect("JSON");
        prop_assert_eq!(value, serde_json::json!({"a": format!("<{text}>"), "b": ["C"]}));
        prop_assert!(!rendered.contains('\n'));
    }

    #[test]
    fn json_numbers_and_texts_keep_their_value(number in any::<i64>(), text in "\\PC{0,20}") {
        let payload = serde_json::json!({"n": number, "s": text}).to_string();
        prop_assert_eq!(render("${payload.n}", payload.as_bytes()), Ok(number.to_string()));
        prop_assert_eq!(render("${payload.s}", payload.as_bytes()), Ok(text));
    }
}
