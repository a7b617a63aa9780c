// Every limit at the limit and one beyond, for reader and writer.
import { expect, test } from 'vitest'
import {
  MAX_DIMS,
  MAX_FILE_BYTES,
  MAX_NAME_BYTES,
  MAX_PARAMETERS,
  type Parameter,
} from '../../compiler/onnx-adapter/format.ts'
import { readOnnxAdapter } from '../../compiler/onnx-adapter/read.ts'
import { layOut, writeOnnxAdapter } from '../../compiler/onnx-adapter/write.ts'
import { problemOf } from './bounds.ts'

const VERSIONS = { adapterVersion: 1, modelVersion: 1 }
const LIST = 40
const FIRST_NAME = 68

const one = (name: string, dims: readonly number[] = [1]): Parameter => {
  return { name, dims, dataType: 'INT8', data: Uint8Array.of(7) }
}
const write = (...parameters: Parameter[]) => writeOnnxAdapter(VERSIONS, parameters)
const read = (bytes: Uint8Array<ArrayBuffer>) => readOnnxAdapter(bytes, 'f')

function patched(bytes: Uint8Array<ArrayBuffer>, at: number, expected: number, value: number): Uint8Array<ArrayBuffer> {
  const view = new DataView(bytes.buffer)
  expect(view.getUint32(at, true)).toBe(expected)
  view.setUint32(at, value, true)
  return bytes
}

test('a name of 1,024 bytes is written and read, one of 1,025 is neither', () => {
  const longest = 'é'.repeat(MAX_NAME_BYTES / 2)
  expect(read(write(one(longest))).parameters[0]?.name).toBe(longest)
  expect(problemOf(() => write(one(`${longest}x`)))).toContain('has a name of 1025 bytes; 1 to 1024')
  expect(problemOf(() => write(one('')))).toContain('has a name of 0 bytes; 1 to 1024')
  const longer = patched(write(one(longest)), FIRST_NAME, MAX_NAME_BYTES, MAX_NAME_BYTES + 1)
  expect(problemOf(() => read(longer))).toContain('the name of parameter 0 has 1025 bytes; at most 1024')
})

test('16 dims are written and read, 17 are neither', () => {
  const dims = new Array<number>(MAX_DIMS).fill(1)
  const file = write(one('n', dims))
  expect(read(file).parameters[0]?.dims).toEqual(dims)
  expect(() => write(one('n', [...dims, 1]))).toThrow(/sidepath bug: .*has 17 dims/)
  // One dim more, of 8 bytes, needs room: the file goes on for longer than it must.
  const longer = new Uint8Array(file.length + 8)
  longer.set(file)
  expect(problemOf(() => read(patched(longer, 76, MAX_DIMS, MAX_DIMS + 1)))).toContain('has 17 dims; at most 16')
})

test('262,144 parameters are written and read, one more is neither', () => {
  const parameters = Array.from({ length: MAX_PARAMETERS }, (_, i) => one(`p${i}`))
  const file = writeOnnxAdapter(VERSIONS, parameters)
  expect(read(file).parameters).toHaveLength(MAX_PARAMETERS)
  expect(problemOf(() => writeOnnxAdapter(VERSIONS, [...parameters, one('more')]))).toContain(
    '262145 parameters; at most 262144 are written',
  )
  const more = patched(file, LIST, MAX_PARAMETERS, MAX_PARAMETERS + 1)
  expect(problemOf(() => read(more))).toContain('262145 parameters; at most 262144 are read')
})

test('a product of dims just below 2^53 is read beside a zero, and refused at 2^53', () => {
  const empty = (dim: number): Parameter => ({ name: 'n', dims: [dim, 0], dataType: 'INT8', data: new Uint8Array(0) })
  const largest = Number.MAX_SAFE_INTEGER
  expect(read(write(empty(largest))).parameters[0]?.dims).toEqual([largest, 0])
  expect(() => write({ ...empty(largest), dataType: 'INT16' })).toThrow(/sidepath bug/)
  expect(() => write(empty(largest + 1))).toThrow(/sidepath bug/)
})

test('a file of 2^31 - 2 bytes is laid out, one of 2^31 - 1 is not', () => {
  const { places } = layOut([one('n')])
  const largest = MAX_FILE_BYTES - (places[0]!.data + 4)
  const data = new Uint8Array(largest + 1)
  const sized = (bytes: number): Parameter => ({ ...one('n', [bytes]), data: data.subarray(0, bytes) })
  expect(layOut([sized(largest)]).bytes).toBe(2 ** 31 - 2)
  expect(problemOf(() => layOut([sized(largest + 1)]))).toMatch(/^file-too-large .*would have 2147483647 bytes/)
})

test('a file beyond 2^31 - 2 bytes is refused before it is looked at', () => {
  const bytes = new Uint8Array(MAX_FILE_BYTES + 1)
  expect(problemOf(() => read(bytes.subarray(0, MAX_FILE_BYTES)))).toContain('no "TORT"')
  expect(problemOf(() => read(bytes))).toMatch(/^file-too-large f: 2147483647 bytes/)
})

test('parameters may share bytes, but not so that reading takes more than the file has', () => {
  const shared = (length: number) => {
    const first: Parameter = { name: 'a', dims: [length], dataType: 'INT8', data: new Uint8Array(length) }
    const bytes = write(first, one('b'))
    const view = new DataView(bytes.buffer)
    const [a, b] = layOut([first, one('b')]).places
    view.setBigInt64(b!.dims + 4, BigInt(length), true)
    view.setUint32(b!.table + 16, a!.data - (b!.table + 16), true)
    return bytes
  }
  expect(read(shared(16)).parameters.map(({ data }) => data.length)).toEqual([16, 16])
  expect(problemOf(() => read(shared(4096)))).toMatch(/more than the file has; they overlap/)
})
