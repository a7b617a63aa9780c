// What engine-shared.onnx is fed with: one adapter's matrices, made where they will serve for a while, and few at a time.
import { expect, test } from 'vitest'
import { Alone } from '../../gpu-backend/engine/alone.ts'
import type { Packed } from '../../gpu-backend/engine/packed.ts'
import type { Session } from '../../runtime/session.ts'

const STEADY_STEPS = 8
const SITES = [
  {
    name: 'q',
    linears: [
      { module: 'q', in: 3, out: 2 },
      { module: 'k', in: 3, out: 1 },
    ],
  },
  { name: 'o', linears: [{ module: 'o', in: 2, out: 3 }] },
]
const session = {} as Session

function adapter(digest: string): Packed {
  const floats = (...values: number[]) => Float32Array.from(values)
  const A = Float32Array.from({ length: 12 }, (_, at) => at)
  const q = { r: 2, A, B: [floats(1, 2, 3, 4), floats(5, 6)] }
  return { digest, bytes: 0, sites: [q, { r: 1, A: floats(7, 8), B: [floats(9, 10, 11)] }] } as unknown as Packed
}

function settle(alone: Alone, packed: Packed) {
  for (let step = 0; step < STEADY_STEPS; step++) expect(alone.feeds(packed)).toBeUndefined()
  return alone.feeds(packed)!
}

test('the B of the linears of a site lie on the diagonal of one matrix, and all else is read where it is', () => {
  const packed = adapter('a')
  const feeds = settle(new Alone(session, SITES), packed)
  expect(feeds['shared.q.lora_A']).toEqual({ data: packed.sites[0]!.A, dims: [3, 4] })
  expect(feeds['shared.q.lora_B']!.dims).toEqual([4, 3])
  expect([...feeds['shared.q.lora_B']!.data]).toEqual([1, 2, 0, 3, 4, 0, 0, 0, 5, 0, 0, 6])
  expect(feeds['shared.o.lora_A']!.data).toBe(packed.sites[1]!.A)
  expect(feeds['shared.o.lora_B']).toEqual({ data: packed.sites[1]!.B[0], dims: [1, 3] })
})

test('an adapter that others interrupt has to be alone anew', () => {
  const alone = new Alone(session, SITES)
  const [one, other] = [adapter('a'), adapter('b')]
  for (let step = 1; step < STEADY_STEPS; step++) alone.feeds(one)
  expect(alone.feeds(other)).toBeUndefined()
  settle(alone, one)
})

test('what was made serves again at once, the same objects, until four others were made', () => {
  const alone = new Alone(session, SITES)
  const first = adapter('a')
  const feeds = settle(alone, first)
  const others = ['b', 'c', 'd'].map(adapter)
  for (const packed of others) settle(alone, packed)
  expect(alone.feeds(first)).toBe(feeds)
  settle(alone, adapter('e'))
  expect(alone.feeds(others[0]!)).toBeUndefined()
  expect(alone.feeds(first)).toBe(feeds)
})
