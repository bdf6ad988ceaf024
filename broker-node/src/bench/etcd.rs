//! The two calls of etcd that the metadata service is compared with: gRPC over HTTP/2, written out by hand.

/// One key, and where it is put and read.
pub const PUT: &str = "/etcdserverpb.KV/Put";
/// Linearizable, as long as it does not ask for less.
pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const CONTENT_TYPE: &str = "application/grpc";

/// `PutRequest { key, value }` as a gRPC message.
pub fn put(key: &str, value: &[u8]) -> Vec<u8> {
    message(&[(1, key.as_bytes()), (2, value)])
}

/// `RangeRequest { key }` as a gRPC message.
pub fn range(key: &str) -> Vec<u8> {
    message(&[(1, key.as_bytes())])
}

/// A failed call has no message, only trailers.
pub fn is_answer(body: &[u8]) -> bool {
    body.first() == Some(&0) && body.len() > 5
}

/// Uncompressed, with its length before it.
fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut protobuf = Vec::new();
    for (number, value) in fields {
        // Type 2: bytes with a length.
        protobuf.push(number << 3 | 2);
        put_varint(&mut protobuf, value.len());
        protobuf.extend_from_slice(value);
    }
    let length = u32::try_from(protobuf.len()).unwrap_or(u32::MAX);
    [&[0], length.to_be_bytes().as_slice(), &protobuf].concat()
}

fn put_varint(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_protocol_says() {
        assert_eq!(range("k"), [0, 0, 0, 0, 3, 0x0a, 1, b'k']);
        let put = put("k", &[7; 300]);
        assert_eq!(put[..11], [0, 0, 0, 1, 50, 0x0a, 1, b'k', 0x12, 0xac, 0x02]);
        assert_eq!(put.len(), 5 + 306);
    }

    #[test]
    fn trailers_alone_are_a_failure() {
        assert!(is_answer(&[0, 0, 0, 0, 2, 8, 1]));
        assert!(!is_answer(&[]));
    }
}
