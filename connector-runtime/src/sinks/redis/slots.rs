//! Which slot of a cluster a command belongs to.
//!
//! A wrong guess costs a redirection, never a record: the server says where the key is.

/// Slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Of a command, whose name is the first of its arguments. A command without a key goes by its first argument, so that
/// what is published on one channel keeps its order.
pub(super) fn slot_of(arguments: &[Vec<u8>]) -> u16 {
    key_of(arguments).map_or(0, slot_of_key)
}

fn key_of(arguments: &[Vec<u8>]) -> Option<&[u8]> {
    let name = arguments.first()?.to_ascii_uppercase();
    let place = match &name[..] {
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" => 3,
        b"BITOP" | b"OBJECT" | b"XGROUP" | b"XINFO" | b"MEMORY" => 2,
        b"ZUNION" | b"ZINTER" | b"ZDIFF" | b"SINTERCARD" | b"ZINTERCARD" | b"LMPOP" | b"ZMPOP" => 2,
        b"MIGRATE" => 3,
        b"XREAD" | b"XREADGROUP" => {
            1 + arguments.iter().position(|argument| argument.eq_ignore_ascii_case(b"STREAMS"))?
        }
        _ => 1,
    };
    arguments.get(place).map(Vec::as_slice)
}

fn slot_of_key(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS
}

/// What stands between the first `{` and the next `}`, unless that is nothing.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let inside = &key[open + 1..];
    let length = inside.iter().position(|byte| *byte == b'}')?;
    (length > 0).then_some(&inside[..length])
}

/// CRC-16/XMODEM, as the cluster's specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(command: &str) -> u16 {
        slot_of(&command.split(' ').map(|argument| argument.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    #[test]
    fn keys_have_the_slots_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (command, expect) in [
            ("SET foo x", 12_182),
            ("set foo", 12_182),
            ("SET {foo}bar x", 12_182),
            ("SET a{foo}{b} x", 12_182),
            ("LPUSH bar x", 5_061),
            ("EVAL script 1 foo x", 12_182),
            ("BITOP AND foo a b", 12_182),
            ("XREAD COUNT 1 STREAMS foo 0", 12_182),
            ("PUBLISH foo x", 12_182),
        ] {
            assert_eq!(slot(command), expect, "{command}");
        }
        for (tagged, whole) in [("{}foo", "{}foo"), ("foo{", "foo{"), ("{{foo}}", "{foo")] {
            assert_eq!(slot_of_key(tagged.as_bytes()), crc16(whole.as_bytes()) % SLOTS, "{tagged}");
        }
        assert_eq!(slot("PING"), 0);
        assert_eq!(slot("EVAL script"), 0);
    }
}
