import assert from 'node:assert/strict'

/** Asserts that bytes are the same. deepEqual would print the difference, which takes gigabytes for buffers that are large. */
export function assertBytes(actual, expected, message = '') {
  const [a, b] = [actual, expected].map(bytes => Buffer.from(bytes))
  assert.ok(a.equals(b), `${message} ${a.length} bytes instead of ${b.length}, or others: ${a.subarray(0, 40)}`)
}
