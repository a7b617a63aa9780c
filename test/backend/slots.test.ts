// Residency: who is in which slot, who may be evicted, and that a bad adapter costs nobody anything.
import { describe, expect, test } from 'vitest'
import { Bank } from '../../gpu-backend/engine/bank.ts'
import { SHARE_MS } from '../../gpu-backend/engine/host-tier.ts'
import type { Factors } from '../../gpu-backend/engine/packed.ts'
import { Queue } from '../../gpu-backend/engine/queue.ts'
import { Residency } from '../../gpu-backend/engine/residency.ts'
import { planPrefill } from '../../gpu-backend/engine/schedule.ts'
import { Slots } from '../../gpu-backend/engine/slots.ts'

const LINEARS = [
  { module: 'q', in: 4, out: 6 },
  { module: 'k', in: 4, out: 2 },
]
const SITES = [{ name: 'q', linears: LINEARS }]

function factors(digest: string, value: number, r = 2, modules = LINEARS): Factors {
  const fill = (size: number): Float32Array => new Float32Array(size).fill(value)
  return {
    digest,
    modules: new Map(modules.map(({ module, in: i, out }) => [module, { r, A: fill(i * r), B: fill(r * out) }])),
  }
}

function setup(slots = 2, hostBudgetBytes = 1_000) {
  const bank = new Bank(SITES, { slots: slots + 1, rank: 3, rows: 4 })
  const store = new Map<string, Factors>()
  const loaded: string[] = []
  const reads: string[] = []
  const dropped: string[] = []
  const clock = { ms: 0 }
  const residency = new Residency({
    slots: new Slots(slots),
    bank,
    hostBudgetBytes,
    read: async (digest) => {
      reads.push(digest)
      const found = store.get(digest)
      if (found === undefined) throw new Error('not there')
      return bank.prepare(found)
    },
    onLoaded: (digest, error) => loaded.push(error === undefined ? digest : `${digest}: ${(error as Error).message}`),
    onDropped: ({ digest }) => dropped.push(digest),
    nowMs: () => clock.ms,
  })
  for (const [at, digest] of ['a', 'b', 'c', 'd'].entries()) store.set(digest, factors(digest, at + 1))
  const rows = Array.from({ length: slots }, (_, index) => index + 1)
  const bytes = (): number[] => Object.values(bank.feeds(0, rows)).flatMap(({ data }) => [...(data as Float32Array)])
  const pin = (digest: string, tenant = 't') => residency.pin(digest, undefined, tenant)
  return { bank, store, loaded, reads, residency, pin, bytes, dropped, clock }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('slots', () => {
  test('the least recently used goes first, and a pinned one never', () => {
    const slots = new Slots(2)
    expect([slots.take('a'), slots.take('b'), slots.free]).toEqual([1, 2, 2])
    slots.pin('a')
    slots.release('a')
    expect(slots.take('c')).toBe(2)
    expect(slots.find('b')).toBeUndefined()
    slots.pin('a')
    slots.pin('c')
    expect([slots.take('d'), slots.free]).toEqual([undefined, 0])
    slots.release('c')
    expect(slots.take('d')).toBe(2)
    expect(slots.list()).toEqual([
      { digest: 'a', slot: 1, pins: 1 },
      { digest: 'd', slot: 2, pins: 0 },
    ])
  })

  test('a slot is pinned as often as rows use it', () => {
    const slots = new Slots(1)
    slots.take('a')
    slots.pin('a')
    slots.pin('a')
    slots.release('a')
    expect(slots.evict('a')).toBe(false)
    slots.release('a')
    expect(slots.evict('a')).toBe(true)
    expect(() => slots.release('a')).toThrow('not pinned')
  })
})

describe('bank', () => {
  const open = () => {
    const bank = new Bank(SITES, { slots: 4, rank: 3, rows: 4 })
    const write = (slot: number, ...[digest, value, r, modules]: Parameters<typeof factors>) =>
      bank.write(slot, bank.prepare(factors(digest, value, r, modules)))
    const of = (feeds: ReturnType<Bank['feeds']>, name: string) => {
      const { dims, data } = feeds[`path.${name}`]!
      return { dims, data: [...(data as Float32Array)] }
    }
    return { bank, write, of }
  }
  const times = (count: number, ...values: number[]): number[] => Array.from({ length: count }, () => values).flat()

  test('gives each row its own factors, A side by side for the linears that read one value, in the order of the rows', () => {
    const { bank, write, of } = open()
    write(1, 'one', 1, 2)
    write(2, 'two', 2, 2)
    const feeds = bank.feeds(0, [2, 0, 1])
    expect(of(feeds, 'q.lora_A')).toEqual({
      dims: [3, 4, 4],
      data: [...times(16, 2), ...times(16, 0), ...times(16, 1)],
    })
    expect(of(feeds, 'k.lora_B')).toEqual({ dims: [3, 2, 2], data: [...times(4, 2), ...times(4, 0), ...times(4, 1)] })
    expect(bank.feeds(0, [2, 0, 1])).toBe(feeds)
  })

  test('a narrower adapter leaves nothing of the last one', () => {
    const { bank, write, of } = open()
    write(1, 'wide', 9, 3)
    write(2, 'other', 8, 3)
    bank.feeds(0, [1, 2])
    write(1, 'narrow', 5, 1, LINEARS.slice(0, 1))
    const feeds = bank.feeds(0, [1, 2])
    expect(of(feeds, 'q.lora_A').data).toEqual([...times(4, 5, 0, 0, 0, 0, 0), ...times(24, 8)])
    expect(of(feeds, 'q.lora_B').data).toEqual([...times(6, 5), ...times(12, 0), ...times(18, 8)])
    expect(of(feeds, 'k.lora_B').data).toEqual([...times(6, 0), ...times(6, 8)])
  })

  test('a step pays for the highest rank among its own adapters, not for what the bank could hold', () => {
    const { bank, write, of } = open()
    write(1, 'low', 1, 1)
    write(2, 'high', 2, 2)
    write(3, 'lower', 3, 1)
    expect(of(bank.feeds(0, [1, 2]), 'q.lora_B').dims).toEqual([2, 2, 6])
    // Once the higher one has been away for a while, and not at once: its row may only wait for a prompt to run.
    const ranks = Array.from({ length: 100 }, () => of(bank.feeds(0, [1, 3]), 'q.lora_B').dims[1])
    expect([ranks[0], ranks.at(-1)]).toEqual([2, 1])
    expect(of(bank.feeds(0, [1, 3]), 'q.lora_B').data).toEqual([...times(6, 1), ...times(6, 3)])
  })

  test('what no adapter of the step changes is one group of zeros, of the first site only the B', () => {
    const sites = [SITES[0]!, { name: 'up', linears: [{ module: 'up', in: 3, out: 5 }] }]
    const bank = new Bank(sites, { slots: 4, rank: 3, rows: 4 })
    const up = sites[1]!.linears
    const write = (slot: number, value: number, modules = LINEARS) =>
      bank.write(slot, bank.prepare(factors(`${slot}`, value, 2, modules)))
    write(1, 7, LINEARS.slice(0, 1))
    write(2, 8, LINEARS.slice(0, 1))
    write(3, 9, up)
    const dims = (rows: number[]) =>
      Object.fromEntries(
        Object.entries(bank.feeds(0, rows)).map(([name, tensor]) => [name.slice(5), tensor.dims.join()]),
      )
    expect(dims([1, 2])).toEqual({
      'q.lora_A': '2,4,4',
      'q.lora_B': '2,2,6',
      'k.lora_B': '1,2,2',
      'up.lora_A': '1,3,1',
      'up.lora_B': '1,1,5',
    })
    expect(dims([3, 0])).toMatchObject({ 'q.lora_A': '2,4,4', 'q.lora_B': '1,2,6', 'up.lora_A': '2,3,2' })
    // Where all is used again, nothing of those that were there before shines through.
    write(1, 1, up)
    const data = (name: string) => [...(bank.feeds(0, [1, 2])[`path.${name}`]!.data as Float32Array)]
    expect(data('up.lora_A')).toEqual([...times(6, 1), ...times(6, 0)])
    expect(data('up.lora_B')).toEqual([...times(10, 1), ...times(10, 0)])
    expect(data('q.lora_B')).toEqual([...times(12, 0), ...times(12, 8)])
    expect(data('k.lora_B')).toEqual(times(4, 0))
  })

  test('one adapter for all rows is read where it lies, and no row at all runs zeros of rank 1', () => {
    const { bank, write, of } = open()
    write(1, 'one', 7, 2)
    expect(of(bank.feeds(0, [1, 1, 1]), 'q.lora_B')).toEqual({ dims: [1, 2, 6], data: times(12, 7) })
    expect(of(bank.feeds(0, [0, 0]), 'q.lora_B')).toEqual({ dims: [1, 1, 6], data: times(6, 0) })
    expect(bank.placeBytes).toBe(0)
  })

  test('refuses a rank above its own, an unknown module and a wrong size, by name', () => {
    const { bank } = open()
    expect(() => bank.prepare(factors('abc', 1, 4))).toThrow(
      'has r=4 at "q"; the bank holds r=3 at most; start with bankRank 4',
    )
    expect(() => bank.prepare(factors('abc', 1, 1, [{ module: 'z', in: 1, out: 1 }]))).toThrow('"z"')
    expect(() => bank.prepare(factors('abc', 1, 1, [{ module: 'q', in: 5, out: 6 }]))).toThrow('wrong size at "q"')
    expect(() => bank.write(0, bank.prepare(factors('base', 1)))).toThrow('slot 0')
  })
})

describe('residency', () => {
  test('reads once for many that wait, then pins at once', async () => {
    const { reads, loaded, pin } = setup()
    expect([pin('a'), pin('a')]).toEqual(['loading', 'loading'])
    await turn()
    expect([pin('a'), pin('a'), reads, loaded]).toEqual([1, 1, ['a'], ['a']])
  })

  test('a bad adapter leaves every slot bit for bit, and evicts nobody', async () => {
    const { residency, store, loaded, bytes, pin } = setup()
    await residency.load('a')
    await residency.load('b')
    const before = bytes()
    store.set('c', factors('c', 7, 9))
    expect(pin('c')).toBe('loading')
    await turn()
    expect(loaded.at(-1)).toContain('r=9')
    await expect(residency.load('zz')).rejects.toThrow('not there')
    expect(bytes()).toEqual(before)
    expect(residency.list().map(({ digest }) => digest)).toEqual(['a', 'b'])
  })

  test('with every slot pinned the next one waits, and gets the first that is released', async () => {
    const { residency, reads, pin } = setup(1)
    await residency.load('a')
    expect(pin('a')).toBe(1)
    expect(pin('b')).toBe('full')
    expect(reads).toEqual(['a'])
    await expect(residency.load('b')).rejects.toThrow('every adapter slot is in use')
    residency.release('a')
    pin('b')
    await turn()
    expect(pin('b')).toBe(1)
    expect(pin('a')).toBe('full')
  })

  test('does not read more adapters than there are slots to put them in', () => {
    const { reads, pin } = setup(2)
    expect(['a', 'b', 'c'].map((digest) => pin(digest))).toEqual(['loading', 'loading', 'full'])
    expect(reads).toEqual(['a', 'b'])
  })

  test('what nobody waits for any more gives up its place', async () => {
    const { residency, pin } = setup(1)
    pin('a')
    await turn()
    expect(pin('b')).toBe('full')
    residency.forget('a')
    expect(pin('b')).toBe('loading')
  })

  // Rank 2 of q and k: 4·4 of A and 2·6 + 2·2 of B, in floats.
  const BYTES = 4 * (16 + 12 + 4)

  test('one that lost its slot comes back from host memory at once, unless it was unloaded', async () => {
    const { residency, reads, pin } = setup(1, 2 * BYTES)
    for (const digest of ['a', 'b']) await residency.load(digest)
    expect([pin('a'), residency.hostBytes]).toEqual([1, 2 * BYTES])
    residency.release('a')
    residency.unload('a')
    expect([residency.hostBytes, reads]).toEqual([BYTES, ['a', 'b']])
    expect([pin('a'), reads]).toEqual(['loading', ['a', 'b', 'a']])
  })

  test('host memory keeps to its budget: the least recently used goes, out of its slot too', async () => {
    const { residency, pin, dropped } = setup(3, 2 * BYTES)
    for (const digest of ['a', 'b']) await residency.load(digest)
    pin('a')
    residency.release('a')
    await residency.load('c')
    expect([residency.hostBytes, dropped]).toEqual([2 * BYTES, ['b']])
    expect(residency.list().map(({ digest }) => digest)).toEqual(['a', 'c'])
    expect([pin('a'), pin('b')]).toEqual([1, 'loading'])
  })

  test('those that rows use stay, whatever the budget, and go when they are no longer used', async () => {
    const { residency, pin, dropped } = setup(2, 0)
    for (const digest of ['a', 'b']) {
      await residency.load(digest)
      expect(typeof pin(digest)).toBe('number')
    }
    expect(residency.hostBytes).toBe(2 * BYTES)
    for (const digest of ['a', 'b']) residency.release(digest)
    await residency.load('c')
    expect([residency.hostBytes, dropped]).toEqual([BYTES, ['a', 'b']])
  })

  test('is read ahead into host memory without a slot, and evicts none', async () => {
    const { residency, pin, reads } = setup(1)
    await residency.load('a')
    expect(pin('a')).toBe(1)
    residency.prefetch('b', undefined, 't')
    residency.prefetch('b', undefined, 't')
    await turn()
    expect([reads, residency.list().map(({ digest }) => digest), pin('b')]).toEqual([['a', 'b'], ['a'], 'full'])
    residency.release('a')
    expect([pin('b'), reads]).toEqual([1, ['a', 'b']])
  })

  test('a few are read at once, and the next one when one of them has ended', async () => {
    const { pin, store, reads } = setup(9)
    const digests = ['a', 'b', 'c', 'd', 'e', 'f']
    for (const digest of digests) store.set(digest, factors(digest, 1))
    expect([...new Set(digests.map((digest) => pin(digest)))]).toEqual(['loading'])
    expect(reads).toEqual(['a', 'b', 'c', 'd'])
    await turn()
    expect(digests.map((digest) => pin(digest))).toEqual([1, 2, 3, 4, 'loading', 'loading'])
    expect(reads).toEqual(digests)
  })

  test('a tenant that goes through many adapters evicts its own, until the others have not used theirs for long', async () => {
    const { residency, pin, store, clock, dropped } = setup(8, 4 * BYTES)
    const use = async (digest: string, tenant: string): Promise<void> => {
      store.set(digest, factors(digest, 1))
      if (pin(digest, tenant) === 'loading') await turn()
      expect(typeof (pin(digest, tenant) as number)).toBe('number')
      while ((residency.list().find((held) => held.digest === digest)?.pins ?? 0) > 0) residency.release(digest)
      clock.ms += 1
    }
    for (const digest of ['x', 'y']) await use(digest, 'quiet')
    for (let at = 0; at < 50; at++) await use(`m${at}`, 'greedy')
    expect(dropped).not.toContain('x')
    expect(dropped.length).toBe(48)
    // Half of the memory is each one's share, so what the quiet one adds goes for its own.
    await use('z', 'quiet')
    expect(dropped.at(-1)).toBe('x')
    clock.ms += SHARE_MS
    for (let at = 50; at < 54; at++) await use(`m${at}`, 'greedy')
    expect(dropped.slice(-4)).toEqual(['y', 'm48', 'm49', 'z'])
  })

  test('one that a row uses is not unloaded', async () => {
    const { residency, pin } = setup()
    await residency.load('a')
    pin('a')
    expect(() => residency.unload('a')).toThrow('in use by 1')
    residency.release('a')
    residency.unload('a')
    expect(() => residency.unload('a')).toThrow('not resident')
  })
})

describe('queue', () => {
  const item = (name: string, cost = 1) => ({ tenant: name[0]!, name, cost })
  function served(queue: Queue<ReturnType<typeof item>>): string[] {
    const names: string[] = []
    while (queue.size > 0) {
      const next = queue.inTurn()[0]!
      queue.serve(next)
      names.push(next.name)
    }
    return names
  }

  test('tenants take turns, and each is served in order', () => {
    const queue = new Queue<ReturnType<typeof item>>(10)
    for (const name of ['x1', 'x2', 'x3', 'y1', 'z1', 'y2']) queue.add(item(name))
    const planned = queue.inTurn().map(({ name }) => name)
    expect(planned).toEqual(['x1', 'y1', 'z1', 'x2', 'y2', 'x3'])
    expect(served(queue)).toEqual(planned)
  })

  test('who asks for ten times the tokens gets a tenth of the turns', () => {
    const queue = new Queue<ReturnType<typeof item>>(100)
    for (let at = 0; at < 20; at++) queue.add(item(`x${at}`, 10))
    for (let at = 0; at < 20; at++) queue.add(item(`y${at}`, 1))
    const first = served(queue).slice(0, 22)
    expect(first.filter((name) => name.startsWith('x'))).toEqual(['x0', 'x1'])
  })

  test('who was away saves up no turns, and who was served keeps the debt', () => {
    const queue = new Queue<ReturnType<typeof item>>(100)
    for (const name of ['x1', 'x2', 'x3', 'x4', 'x5']) queue.add(item(name))
    queue.add(item('y1', 3))
    for (const expected of ['x1', 'y1', 'x2', 'x3']) {
      const next = queue.inTurn()[0]!
      expect(next.name).toBe(expected)
      queue.serve(next)
    }
    for (const name of ['z1', 'z2', 'y2']) queue.add(item(name))
    expect(queue.inTurn().map(({ name }) => name)).toEqual(['x4', 'z1', 'y2', 'x5', 'z2'])
  })

  test('what was charged and not run is given back, and not to who has been forgotten meanwhile', () => {
    const queue = new Queue<ReturnType<typeof item>>(100)
    for (const name of ['x1', 'x2', 'y1', 'y2']) queue.add(item(name, 10))
    const account = queue.serve(queue.inTurn()[0]!)
    expect(queue.inTurn().map(({ name }) => name)).toEqual(['y1', 'x2', 'y2'])
    account.tokens -= 10
    expect(queue.inTurn().map(({ name }) => name)).toEqual(['x2', 'y1', 'y2'])
    for (const one of queue.inTurn()) queue.serve(one)
    account.tokens -= 10
    for (const name of ['y3', 'x3', 'x4']) queue.add(item(name, 10))
    expect(queue.inTurn().map(({ name }) => name)).toEqual(['y3', 'x3', 'x4'])
  })

  test('one that gives up changes nobody’s turn', () => {
    const queue = new Queue<ReturnType<typeof item>>(3)
    const items = ['x1', 'x2', 'y1'].map((name) => item(name))
    for (const one of items) queue.add(one)
    expect(queue.full).toBe(true)
    queue.drop(items[0]!)
    expect(queue.inTurn().map(({ name }) => name)).toEqual(['x2', 'y1'])
    expect(queue.full).toBe(false)
  })
})

describe('prefill plan', () => {
  const row = (left: number, lastPrefill = 0, chunk = Number.POSITIVE_INFINITY) => ({ left, lastPrefill, chunk })
  const plan = (lefts: number[], budget: number): number[] =>
    planPrefill(
      lefts.map((left) => row(left)),
      budget,
    ).map(({ tokens }) => tokens)

  test('a long prompt runs alone in chunks, short ones share a run with their padding', () => {
    expect(plan([1_000, 5], 128)).toEqual([128])
    expect(plan([30, 31, 32, 30, 30], 128)).toEqual([30, 31, 32, 30])
    expect(plan([10, 100, 5], 128)).toEqual([10])
    expect(plan([], 128)).toEqual([])
  })

  test('a prompt that has just run a chunk lets the others go first', () => {
    const rows = [row(1_000, 7), row(900, 3), row(5), row(6)]
    expect(planPrefill(rows, 128).map(({ tokens }) => tokens)).toEqual([5, 6])
    expect(planPrefill(rows.slice(0, 2), 128)).toEqual([{ row: rows[1], tokens: 128 }])
  })

  test('a row’s own bound is kept', () => {
    expect(planPrefill([row(1_000, 0, 32), row(5)], 128).map(({ tokens }) => tokens)).toEqual([32, 5])
  })
})
