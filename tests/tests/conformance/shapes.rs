//! The records of all shapes, and values that try to leave their place.

use serde_json::json;

/// Where a record has something that a target could stumble over. All else about it is plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    Payload(Payload),
    /// A level of the topic.
    Topic(Text),
    ClientId(Text),
    /// Name and value of a user property.
    UserProperty(Text),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payload {
    Empty,
    OneByte,
    /// 256 kB.
    Large,
    Nul,
    InvalidUtf8,
    /// An object of texts, numbers, booleans.
    JsonFlat,
    JsonNested,
    /// The largest and smallest that JSON libraries know, and one more digit.
    JsonNumbers,
    JsonNull,
    /// A text in quotes, alone.
    JsonText,
    /// Over several lines, with two values for one name.
    JsonSpread,
    Text(Text),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Text {
    Unicode,
    Quotes,
    /// Space, comma, `=`, `;`, `|`, `:`, `&`.
    Separators,
    /// LF, CR and tab.
    LineBreaks,
    /// Also as the last character.
    Backslashes,
    /// Empty levels, and levels that are dots.
    Slashes,
    /// What templates, statements and formats would fill in.
    Placeholders,
}

pub const TEXTS: [Text; 7] = [
    Text::Unicode,
    Text::Quotes,
    Text::Separators,
    Text::LineBreaks,
    Text::Backslashes,
    Text::Slashes,
    Text::Placeholders,
];

const PAYLOADS: [Payload; 11] = [
    Payload::Empty,
    Payload::OneByte,
    Payload::Large,
    Payload::Nul,
    Payload::InvalidUtf8,
    Payload::JsonFlat,
    Payload::JsonNested,
    Payload::JsonNumbers,
    Payload::JsonNull,
    Payload::JsonText,
    Payload::JsonSpread,
];

/// Every plain message says the same: its name tells it apart.
pub const CELSIUS: f64 = 21.5;

const LARGE_BYTES: usize = 256 * 1024;

/// One message as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Unique within its case.
    pub name: String,
    pub client_id: String,
    pub topic: String,
    pub payload: Vec<u8>,
    pub user_properties: Vec<(String, String)>,
    /// Of a plain one: none.
    pub shape: Option<Shape>,
}

impl Message {
    pub fn plain(case: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            client_id: format!("conf-{case}"),
            topic: format!("c/{case}/{name}"),
            payload: message_of(name),
            user_properties: vec![("plant".to_owned(), "north".to_owned())],
            shape: None,
        }
    }

    pub fn shaped(case: &str, name: &str, shape: Shape) -> Self {
        let mut message = Self { shape: Some(shape), ..Self::plain(case, name) };
        match shape {
            Shape::Payload(payload) => message.payload = payload.bytes(),
            Shape::Topic(text) => message.put_into_topic(text.sample()),
            Shape::ClientId(text) => message.put_into_client_id(text.sample()),
            Shape::UserProperty(text) => message.put_into_properties(text.sample()),
        }
        message
    }

    pub fn put_into_topic(&mut self, text: &str) {
        self.topic = format!("{}/{text}", self.topic);
    }

    pub fn put_into_client_id(&mut self, text: &str) {
        self.client_id = format!("{}-{text}", self.client_id);
    }

    /// The same name twice, too, as MQTT 5 allows.
    pub fn put_into_properties(&mut self, text: &str) {
        self.user_properties.push(("note".to_owned(), text.to_owned()));
        self.user_properties.push(("note".to_owned(), String::new()));
        self.user_properties.push((format!("name {text}"), "value".to_owned()));
    }
}

/// The payload of a plain message.
pub fn message_of(name: &str) -> Vec<u8> {
    json!({ "message": name, "celsius": CELSIUS }).to_string().into_bytes()
}

impl Shape {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let payloads = PAYLOADS.into_iter().chain(TEXTS.map(Payload::Text));
        let mut all: Vec<Self> = payloads.map(Self::Payload).collect();
        all.extend(TEXTS.map(Self::Topic));
        all.extend(TEXTS.map(Self::ClientId));
        all.extend(TEXTS.map(Self::UserProperty));
        all
    }
}

impl Text {
    pub fn sample(self) -> &'static str {
        match self {
            Self::Unicode => "Zürich – 東京 🚀 e\u{301} \u{202e}right to left",
            Self::Quotes => r#"it's "quoted", `ticked`, 'twice''"#,
            Self::Separators => "a b,c=d;e|f:g&h  two",
            Self::LineBreaks => "one\ntwo\r\nthree\tfour\n",
            Self::Backslashes => r"C:\temp\new\\n \u0041 \",
            Self::Slashes => "/a//b/./../c/",
            Self::Placeholders => "${topic} {payload} {0} %s %(id)s $1 :name ?",
        }
    }
}

impl Payload {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Empty => Vec::new(),
            Self::OneByte => b"x".to_vec(),
            // No compression makes it small, and it is neither JSON nor text of one line.
            Self::Large => (0..LARGE_BYTES as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect(),
            Self::Nul => b"before\0after\0".to_vec(),
            Self::InvalidUtf8 => b"caf\xe9 \xff\xfe \xc3".to_vec(),
            Self::JsonFlat => br#"{"room":"kitchen","t":21.50,"n":-7,"on":true,"note":null}"#.to_vec(),
            Self::JsonNested => br#"{"a":{"b":[1,{"c":"d"},[]],"e":{}},"f":[[1],[2,[3]]]}"#.to_vec(),
            Self::JsonNumbers => {
                br#"{"u":18446744073709551615,"i":-9223372036854775808,"more":18446744073709551616,"f":1.7976931348623157e308,"s":5e-324,"z":-0.0,"d":0.1000000000000000055511151231257827}"#
                    .to_vec()
            }
            Self::JsonNull => b"null".to_vec(),
            Self::JsonText => br#""warm \u00e9 \"and\" \n""#.to_vec(),
            Self::JsonSpread => b"{\r\n  \"a\": 1,\n  \"b\": [1,\n 2],\n  \"a\": 3\n}\n".to_vec(),
            Self::Text(text) => text.sample().as_bytes().to_vec(),
        }
    }
}

/// A value that would do something if it left its place.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    pub about: &'static str,
    pub text: &'static str,
    /// The shape that has the same characters in it: what becomes of that becomes of this.
    pub like: Text,
}

pub const INJECTIONS: [Injection; 9] = [
    Injection { about: "SQL", text: "x'); DROP TABLE conformance; --", like: Text::Quotes },
    Injection { about: "SQL identifier", text: r#"x"; DELETE FROM conformance; --"#, like: Text::Quotes },
    Injection {
        about: "Redis",
        text: "x\r\nSET stranger 1\r\n*3\r\n$3\r\nSET\r\n$8\r\nstranger\r\n$1\r\n1\r\n",
        like: Text::LineBreaks,
    },
    Injection { about: "line protocol", text: "x v=1 1\nstranger,tag=a v=1 1\nx,tag=b", like: Text::LineBreaks },
    Injection {
        about: "line protocol on one line",
        text: "x,tag=stranger v=1i,w=2 1465839830100400200",
        like: Text::Separators,
    },
    Injection { about: "header", text: "x\r\nStranger: 1\r\n\r\nPOST /stranger HTTP/1.1\r\n", like: Text::LineBreaks },
    Injection { about: "path", text: "../../../../stranger/../..", like: Text::Slashes },
    Injection { about: "URL", text: "x?db=stranger&precision=s%2e%2e%2f%0d%0aX", like: Text::Separators },
    Injection { about: "JSON", text: r#"x","id":"stranger","payload":{"a":"b"},"z":""#, like: Text::Quotes },
];

impl Injection {
    /// The value in every place that takes one.
    pub fn messages(&self, case: &str, number: usize) -> Vec<Message> {
        let mut messages: Vec<Message> = ["payload", "topic", "client", "property"]
            .map(|place| Message::plain(case, &format!("{place}_{number}")))
            .into();
        messages[0].payload = self.text.as_bytes().to_vec();
        messages[0].shape = Some(Shape::Payload(Payload::Text(self.like)));
        messages[1].put_into_topic(self.text);
        messages[1].shape = Some(Shape::Topic(self.like));
        messages[2].put_into_client_id(self.text);
        messages[2].shape = Some(Shape::ClientId(self.like));
        messages[3].put_into_properties(self.text);
        messages[3].shape = Some(Shape::UserProperty(self.like));
        messages
    }
}
