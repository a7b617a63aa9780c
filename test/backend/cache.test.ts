// The KV cache: rows keep what is theirs while others come, go and grow; memory stays within the budget.
import { describe, expect, test } from 'vitest'
import { Cache, type CacheRow } from '../../gpu-backend/engine/cache.ts'
import { BLOCK_TOKENS } from '../../gpu-backend/engine/prefix-cache.ts'

const SHAPE = { layers: 2, kvHeads: 3, headDim: 5, maxPositions: 300, maxRows: 5, budgetBytes: 1e9 }
const PER_TOKEN_BYTES = 2 * 3 * 5 * 2 * 4

/** Every element says whose it is: row, token, layer, line; exact in fp32 for 600 rows. */
const mark = (row: number, token: number, layer: number, line: number): number =>
  (row * 300 + token) * 80 + layer * 40 + line

function append(cache: Cache, row: CacheRow, name: number, count: number, padded = count): void {
  const start = row.length
  const keys = [0, 1].map((layer) =>
    Float32Array.from({ length: 15 * padded }, (_, at) => {
      const s = at % padded
      return s < count ? mark(name, start + s, layer, Math.floor(at / padded)) : -1
    }),
  )
  const values = [0, 1].map((layer) =>
    Float32Array.from({ length: 15 * padded }, (_, at) => {
      const [head, s, d] = [Math.floor(at / (5 * padded)), Math.floor(at / 5) % padded, at % 5]
      return s < count ? mark(name, start + s, layer, 20 + head * 5 + d) : -1
    }),
  )
  expect(cache.append(row, keys, values, count)).toBe(true)
}

function expectRow(cache: Cache, row: CacheRow, name: number): void {
  const C = cache.capacity
  for (const layer of [0, 1]) {
    const { key, value } = cache.view(layer, row.place, 1)
    for (let token = 0; token < row.length; token++) {
      for (let line = 0; line < 15; line++) {
        expect(key[line * C + token]).toBe(mark(name, token, layer, line))
        const head = Math.floor(line / 5)
        expect(value[(head * C + token) * 5 + (line % 5)]).toBe(mark(name, token, layer, 20 + line))
      }
    }
  }
}

describe('cache', () => {
  test('keys are one column a token, values one line a token', () => {
    const cache = new Cache(SHAPE)
    const row = cache.open(20)
    append(cache, row, 1, 7)
    append(cache, row, 1, 1)
    append(cache, row, 1, 3, 6)
    expect(row.length).toBe(11)
    expectRow(cache, row, 1)
  })

  test('rows survive departures, arrivals, growth and shrinking of others', () => {
    const cache = new Cache(SHAPE)
    const rows = [1, 2, 3, 4].map((name) => ({ name, row: cache.open(name === 4 ? 300 : 60) }))
    for (const { name, row } of rows) append(cache, row, name, 5 + name)
    const check = (): void => {
      for (const { name, row } of rows) expectRow(cache, row, name)
      expect(rows.map(({ row }) => row.place).sort()).toEqual(rows.map((_, at) => at))
    }
    check()
    append(cache, rows[3]!.row, 4, 200)
    expect(cache.capacity).toBe(256)
    check()
    cache.close(rows.splice(1, 1)[0]!.row)
    check()
    rows.push({ name: 5, row: cache.open(40) })
    append(cache, rows[3]!.row, 5, 9)
    check()
    append(cache, rows[2]!.row, 4, 80)
    expect(cache.capacity).toBe(300)
    check()
    cache.close(rows.splice(2, 1)[0]!.row)
    expect(cache.capacity).toBe(64)
    check()
  })

  test('arranged rows are neighbours, and everyone keeps their own', () => {
    for (const wanted of [[0, 2], [1, 3, 4], [4, 0], [2], [0, 1, 2, 3, 4], [3, 1]]) {
      const cache = new Cache(SHAPE)
      const rows = [0, 1, 2, 3, 4].map((name) => cache.open(10 + name))
      for (const [name, row] of rows.entries()) append(cache, row, name, 2 + name)
      const members = wanted.map((name) => rows[name]!)
      const first = cache.arrange(members)
      expect(members.map(({ place }) => place).sort()).toEqual(members.map((_, at) => first + at))
      for (const [name, row] of rows.entries()) expectRow(cache, row, name)
    }
  })

  test('what was never written is zero, and numbers that are not finite are never written', () => {
    const cache = new Cache(SHAPE)
    const row = cache.open(10)
    const bad = [0, 1].map(() => new Float32Array(15).fill(Number.NaN))
    const good = [0, 1].map(() => new Float32Array(15).fill(1))
    expect(cache.append(row, bad, good, 1)).toBe(false)
    expect(cache.append(row, good, bad, 1)).toBe(false)
    expect(row.length).toBe(0)
    const { key, value } = cache.view(1, 0, 1)
    expect([...key, ...value].every((element) => element === 0)).toBe(true)
  })

  test('admits only rows that fit the budget with all of them grown to what they need', () => {
    const cache = new Cache({ ...SHAPE, budgetBytes: 3 * 128 * PER_TOKEN_BYTES })
    expect(cache.fits(300)).toBe(true)
    expect(cache.fits(301)).toBe(false)
    cache.open(100)
    expect(cache.hasRoom(192)).toBe(true)
    expect(cache.hasRoom(193)).toBe(false)
    cache.open(128)
    cache.open(1)
    expect(cache.hasRoom(1)).toBe(false)
    expect(cache.bytes).toBeLessThanOrEqual(3 * 128 * PER_TOKEN_BYTES)
  })

  test('a block that is kept comes back to the number, into rows of another place and capacity', () => {
    const cache = new Cache({ ...SHAPE, prefixBytes: 1e6 })
    const first = cache.open(60)
    append(cache, first, 1, 50)
    cache.keepBlock(first, 0, 'k0', undefined)
    cache.keepBlock(first, 16, 'k1', 'k0')
    cache.keepBlock(first, 32, 'k3', 'k2')
    expect(['k0', 'k1', 'k3'].map((key) => cache.hasBlock(key))).toEqual([true, true, false])
    expect(cache.prefixBytes).toBe(2 * BLOCK_TOKENS * PER_TOKEN_BYTES)
    const second = cache.open(300)
    const third = cache.open(70)
    append(cache, second, 2, 150)
    expect(cache.restoreBlocks(third, ['k0', 'k1', 'k2'])).toBe(2)
    cache.close(first)
    expect(third.length).toBe(32)
    expectRow(cache, third, 1)
    expectRow(cache, second, 2)
    append(cache, third, 1, 38)
    expectRow(cache, third, 1)
  })

  test('prefixes make way for rows, those that were used longest ago first and from their ends', () => {
    const tokens = 3 * 64
    const cache = new Cache({ ...SHAPE, budgetBytes: tokens * PER_TOKEN_BYTES, prefixBytes: 1e6 })
    const row = cache.open(64)
    append(cache, row, 1, 64)
    for (const [at, key] of ['a0', 'a1', 'a2', 'a3'].entries()) {
      cache.keepBlock(row, 16 * at, key, at === 0 ? undefined : `a${at - 1}`)
      cache.keepBlock(row, 16 * at, `b${at}`, at === 0 ? undefined : `b${at - 1}`)
    }
    expect(cache.prefixBytes).toBe(2 * 64 * PER_TOKEN_BYTES)
    const held = (): string => ['a0', 'a1', 'a2', 'a3', 'b0', 'b1', 'b2', 'b3'].filter((k) => cache.hasBlock(k)).join()
    const other = cache.open(64)
    expect(cache.bytes + cache.prefixBytes).toBeLessThanOrEqual(tokens * PER_TOKEN_BYTES)
    expect(held()).toBe('b0,b1,b2,b3')
    expect(cache.restoreBlocks(other, ['b0'])).toBe(1)
    cache.keepBlock(row, 0, 'c0', undefined)
    expect(held()).toBe('b0,b1,b2')
    cache.open(64)
    expect(held()).toBe('')
    cache.keepBlock(row, 0, 'c1', undefined)
    expect(cache.prefixBytes).toBe(0)
  })

  test.each([0, 3 * 16 * PER_TOKEN_BYTES, 1e9])('never holds more than the budget, %i for prefixes', (prefixBytes) => {
    const budgetBytes = 4 * 256 * PER_TOKEN_BYTES
    const cache = new Cache({ ...SHAPE, budgetBytes, prefixBytes })
    const open: { row: CacheRow; name: number }[] = []
    let seed = 1
    const next = (below: number): number => {
      seed = (seed * 48271) % 0x7fffffff
      return seed % below
    }
    for (let step = 0; step < 500; step++) {
      const need = 1 + next(256)
      if (next(2) === 0 && cache.hasRoom(need)) open.push({ row: cache.open(need), name: step })
      else if (open.length > 0 && next(3) === 0) cache.close(open.splice(next(open.length), 1)[0]!.row)
      else if (open.length > 0) {
        const { row, name } = open[next(open.length)]!
        if (row.length < row.need) append(cache, row, name, 1 + next(row.need - row.length))
        const at = 16 * next(16)
        if (at + 16 <= row.length)
          cache.keepBlock(row, at, `${name} ${at}`, at === 0 ? undefined : `${name} ${at - 16}`)
      }
      expect(cache.bytes + cache.prefixBytes).toBeLessThanOrEqual(budgetBytes)
      expect(cache.prefixBytes).toBeLessThanOrEqual(prefixBytes)
    }
    for (const { row, name } of open) expectRow(cache, row, name)
  })
})
