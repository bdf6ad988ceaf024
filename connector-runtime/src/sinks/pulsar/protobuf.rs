//! Messages of Protocol Buffers, declared by their fields; `prost` writes and reads these. Its own macro does the same, and with
//! the crates that it brings everything that is generated from C headers would be built twice.
//!
//! ```text
//!   message! { Name { 1 => topic: required string String, … } }
//! ```

macro_rules! message {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $tag:literal => $field:ident: $label:ident $kind:ident $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(super) struct $name {
            $($(#[$field_doc])* pub(super) $field: $crate::sinks::pulsar::protobuf::field!($label $type),)*
        }

        impl ::prost::Message for $name {
            #[allow(unused_variables)]
            fn encode_raw(&self, out: &mut impl ::bytes::BufMut) {
                $($crate::sinks::pulsar::protobuf::encode!($label $kind $tag, self.$field, out);)*
            }

            #[allow(unused_variables)]
            fn merge_field(
                &mut self,
                tag: u32,
                wire: ::prost::encoding::WireType,
                from: &mut impl ::bytes::Buf,
                context: ::prost::encoding::DecodeContext,
            ) -> Result<(), ::prost::DecodeError> {
                match tag {
                    $($tag => $crate::sinks::pulsar::protobuf::merge!($label $kind wire, self.$field, from, context),)*
                    _ => ::prost::encoding::skip_field(wire, tag, from, context),
                }
            }

            fn encoded_len(&self) -> usize {
                0 $(+ $crate::sinks::pulsar::protobuf::encoded_len!($label $kind $tag, self.$field))*
            }

            fn clear(&mut self) {
                *self = Self::default();
            }
        }
    };
}

macro_rules! field {
    (required $type:ty) => { $type };
    (optional $type:ty) => { Option<$type> };
    (repeated $type:ty) => { Vec<$type> };
}

macro_rules! encode {
    (required $kind:ident $tag:literal, $value:expr, $out:ident) => {
        ::prost::encoding::$kind::encode($tag, &$value, $out)
    };
    (optional $kind:ident $tag:literal, $value:expr, $out:ident) => {
        if let Some(value) = &$value {
            ::prost::encoding::$kind::encode($tag, value, $out);
        }
    };
    (repeated $kind:ident $tag:literal, $value:expr, $out:ident) => {
        ::prost::encoding::$kind::encode_repeated($tag, &$value, $out)
    };
}

macro_rules! merge {
    (required $kind:ident $wire:ident, $value:expr, $from:ident, $context:ident) => {
        ::prost::encoding::$kind::merge($wire, &mut $value, $from, $context)
    };
    (optional $kind:ident $wire:ident, $value:expr, $from:ident, $context:ident) => {
        ::prost::encoding::$kind::merge($wire, $value.get_or_insert_default(), $from, $context)
    };
    (repeated $kind:ident $wire:ident, $value:expr, $from:ident, $context:ident) => {
        ::prost::encoding::$kind::merge_repeated($wire, &mut $value, $from, $context)
    };
}

macro_rules! encoded_len {
    (required $kind:ident $tag:literal, $value:expr) => {
        ::prost::encoding::$kind::encoded_len($tag, &$value)
    };
    (optional $kind:ident $tag:literal, $value:expr) => {
        $value.as_ref().map_or(0, |value| ::prost::encoding::$kind::encoded_len($tag, value))
    };
    (repeated $kind:ident $tag:literal, $value:expr) => {
        ::prost::encoding::$kind::encoded_len_repeated($tag, &$value)
    };
}

/// A number that others may extend.
macro_rules! enumeration {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name {
            $($variant = $number,)*
        }

        impl From<$name> for i32 {
            fn from(value: $name) -> Self {
                value as Self
            }
        }

        impl TryFrom<i32> for $name {
            type Error = i32;

            fn try_from(number: i32) -> Result<Self, i32> {
                match number {
                    $($number => Ok(Self::$variant),)*
                    unknown => Err(unknown),
                }
            }
        }
    };
}

pub(super) use {encode, encoded_len, enumeration, field, merge, message};

#[cfg(test)]
mod tests {
    use prost::Message;

    message! {
        Inner {
            1 => key: required string String,
        }
    }

    message! {
        Outer {
            1 => number: required uint64 u64,
            2 => text: optional string String,
            3 => inner: optional message Inner,
            4 => many: repeated message Inner,
            300 => signed: optional int64 i64,
        }
    }

    enumeration! {
        Color {
            Red = 0,
            Blue = 3,
        }
    }

    #[test]
    fn fields_are_written_as_the_format_has_them_and_read_back() {
        let inner = |key: &str| Inner { key: key.to_owned() };
        let outer = Outer {
            number: 150,
            text: Some(String::new()),
            inner: Some(inner("a")),
            many: vec![inner("b"), inner("c")],
            signed: Some(-1),
        };
        let bytes = outer.encode_to_vec();
        let expect = [
            &[0x08, 0x96, 0x01, 0x12, 0x00, 0x1a, 0x03, 0x0a, 0x01, b'a'][..],
            &[0x22, 0x03, 0x0a, 0x01, b'b', 0x22, 0x03, 0x0a, 0x01, b'c', 0xe0, 0x12],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        ]
        .concat();
        assert_eq!((bytes.len(), &bytes), (outer.encoded_len(), &expect));
        assert_eq!(Outer::decode(&bytes[..]), Ok(outer));
        // A field that is not known is passed over; one that is cut is an error.
        let unknown = [&[0x2a, 0x01, b'x'][..], &[0x08, 0x07]].concat();
        assert_eq!(Outer::decode(&unknown[..]), Ok(Outer { number: 7, ..Outer::default() }));
        assert!(Outer::decode(&[0x12, 0x05, b'x'][..]).is_err());
    }

    #[test]
    fn a_number_that_is_not_known_is_told() {
        assert_eq!((Color::try_from(3), Color::try_from(1)), (Ok(Color::Blue), Err(1)));
        assert_eq!((i32::from(Color::Red), i32::from(Color::Blue)), (0, 3));
    }
}
