// Which replica gets a request: scores, loads, drains and breakers, as arithmetic and through the gateway's own pick.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { World } from '../../gateway/context.ts'
import type { Backend } from '../../gateway/policy/policy.ts'
import {
  afterFailure,
  type Breaker,
  beginTrial,
  CLOSED,
  FAILURES_TO_OPEN,
  FIRST_PAUSE_MS,
  LONGEST_PAUSE_MS,
  phaseOf,
} from '../../gateway/upstream/breaker.ts'
import { DRIVERS } from '../../gateway/upstream/drivers.ts'
import { pickBackends } from '../../gateway/upstream/pick-backends.ts'
import { readSamples, sumOf } from '../../gateway/upstream/read-metrics.ts'
import { scoreLora } from '../../gateway/upstream/score-lora.ts'
import { beginRequest, KEEP_MS } from '../../gateway/upstream/watch-backends.ts'
import { BASE, digest } from './house.ts'

const RED = digest('1')

describe('LoRA affinity', () => {
  const load = (resident: string[], waiting: string[], freeSlots: number | null) => ({
    resident: new Set(resident),
    waiting: new Set(waiting),
    freeSlots,
    requests: 0,
  })
  it.each([
    ['is resident', load(['red'], [], 0), 1],
    ['has a free slot', load(['blue'], [], 1), 0.8],
    ['has a free slot, and it waits', load(['blue'], ['red'], 1), 0.8],
    ['is full, and it waits', load(['blue'], ['red'], 0), 0.6],
    ['is full', load(['blue'], ['green'], 0), 0],
    ['is full, with a name that holds the name', load(['red-2'], ['infrared'], 0), 0],
    ['says nothing of slots', load([], [], null), 0.8],
    ['was never asked', undefined, 0.8],
  ] as const)('where it %s scores as llm-d’s scorer does', (_what, given, score) => {
    expect(scoreLora(given, 'red')).toBe(score)
  })
})

describe('metrics', () => {
  it('of vLLM are read from the series of now, whatever came before', () => {
    const text = [
      '# HELP vllm:lora_requests_info x',
      'vllm:lora_requests_info{max_lora="3",running_lora_adapters="a,b",waiting_lora_adapters="c"} 1.7e9',
      'vllm:lora_requests_info{max_lora="3",running_lora_adapters="a",waiting_lora_adapters="d"} 1.8e9',
      'vllm:num_requests_running{engine="0"} 2.0',
      'vllm:num_requests_running{engine="1"} 3.0',
      'vllm:num_requests_running_total{engine="1"} 99.0',
      'vllm:num_requests_waiting{engine="0"} 4.0 1700000000',
    ].join('\n')
    expect(DRIVERS.vllm.readLoad(text)).toEqual({
      resident: new Set(['a']),
      waiting: new Set(['d']),
      freeSlots: 1,
      requests: 9,
    })
  })

  it('with escapes, NaN, cut lines and nothing at all do no harm', () => {
    expect(readSamples('x{a="q\\"}",b="c\\\\d\\ne"} 1', 'x')[0]?.labels).toEqual(
      new Map([
        ['a', 'q"}'],
        ['b', 'c\\d\ne'],
      ]),
    )
    expect(sumOf('x NaN\nx +Inf\nx{a="b"\nx\nx{} 2\r\n', 'x')).toBe(2)
    fc.assert(
      fc.property(fc.string(), (text) => {
        for (const driver of Object.values(DRIVERS)) expect(driver.readLoad(text).requests).toBeGreaterThanOrEqual(0)
      }),
    )
  })
})

describe('a clock that is set back', () => {
  it('shuts no backend out for longer than the longest pause', () => {
    const open = Array.from({ length: FAILURES_TO_OPEN }).reduce<Breaker>((state) => afterFailure(state, 1e12), CLOSED)
    expect(phaseOf(open, 1e12)).toBe('open')
    expect(phaseOf(open, 1e12 - 3_600_000)).toBe('half-open')
    const trial = beginTrial(open, 1e12 - 3_600_000)
    expect(phaseOf(trial, 1e12 - 3_600_000)).toBe('open')
    expect(phaseOf(trial, 1e12 - 3_600_000 + FIRST_PAUSE_MS)).toBe('half-open')
  })
})

describe('the breaker', () => {
  const fail = (breaker: Breaker, times: number, now: number) =>
    Array.from({ length: times }).reduce<Breaker>((state) => afterFailure(state, now), breaker)

  it('opens with the fifth failure in a row, and half-opens after its pause', () => {
    expect(phaseOf(fail(CLOSED, FAILURES_TO_OPEN - 1, 0), 0)).toBe('closed')
    const open = fail(CLOSED, FAILURES_TO_OPEN, 0)
    expect([phaseOf(open, 0), phaseOf(open, FIRST_PAUSE_MS - 1), phaseOf(open, FIRST_PAUSE_MS)]).toEqual([
      'open',
      'open',
      'half-open',
    ])
  })

  it('lets one trial through, and the next only when that failed or was forgotten', () => {
    const trial = beginTrial(fail(CLOSED, FAILURES_TO_OPEN, 0), FIRST_PAUSE_MS)
    expect(phaseOf(trial, FIRST_PAUSE_MS)).toBe('open')
    expect(phaseOf(trial, 2 * FIRST_PAUSE_MS)).toBe('half-open')
    const failed = afterFailure(trial, FIRST_PAUSE_MS + 50)
    expect([phaseOf(failed, 3 * FIRST_PAUSE_MS + 49), phaseOf(failed, 3 * FIRST_PAUSE_MS + 50)]).toEqual([
      'open',
      'half-open',
    ])
  })

  it('pauses no longer for failures of what was under way when it opened', () => {
    const open = fail(CLOSED, FAILURES_TO_OPEN, 0)
    expect(fail(open, 100, 1).closedOutUntil).toBe(open.closedOutUntil)
  })

  it('doubles the pause with each trial that fails, up to a minute, whatever happens in between', () => {
    let breaker = fail(CLOSED, FAILURES_TO_OPEN, 0)
    const pauses: number[] = []
    for (let i = 0; i < 8; i++) {
      const now = breaker.closedOutUntil
      breaker = afterFailure(beginTrial(breaker, now), now)
      pauses.push(breaker.closedOutUntil - now)
    }
    expect(pauses).toEqual([4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000, 60_000])
    expect(Math.max(...pauses)).toBe(LONGEST_PAUSE_MS)
  })

  it('is never shut for longer than a minute from now, in any order of events', () => {
    const event = fc.tuple(fc.constantFrom('fail', 'trial'), fc.nat(5_000))
    fc.assert(
      fc.property(fc.array(event, { maxLength: 60 }), (events) => {
        let [breaker, now] = [CLOSED, 0]
        for (const [what, later] of events) {
          now += later
          breaker = what === 'fail' ? afterFailure(breaker, now) : beginTrial(breaker, now)
          expect(breaker.closedOutUntil - now).toBeLessThanOrEqual(LONGEST_PAUSE_MS)
        }
      }),
    )
  })
})

describe('the pick', () => {
  const backend = (id: string, more: Partial<Backend> = {}): Backend => ({
    id,
    url: `http://${id}.test`,
    prefix: '',
    driver: 'vllm',
    secret: null,
    baseModel: 'base',
    baseDigest: BASE,
    draining: false,
    adapters: new Map([[RED, 'red']]),
    ...more,
  })

  function setting(pages: Readonly<Record<string, string | null>> = {}) {
    const clock = { now: 1_000_000 }
    const asked: string[] = []
    const world: World = {
      now: () => clock.now,
      timeouts: { connectMs: 1, firstByteMs: 1, idleMs: 1, wholeAnswerMs: 1, readinessMs: 1_000 },
      keeping: { lingerMs: 0, spareMs: 0, beforeDispatch: true },
      async fetch(url) {
        asked.push(url)
        const page = pages[new URL(url).host.replace('.test', '')]
        if (page === null) throw new TypeError('connection refused')
        return new Response(page ?? '')
      },
    }
    const pick = async (candidates: readonly Backend[], adapter: string | null = RED, requestId = 'r') => {
      const works: Promise<unknown>[] = []
      const wait = (work: Promise<unknown>) => void works.push(work)
      const picked = pickBackends(world, candidates, { endpoint: 'chat', adapter, requestId }, {}, wait)
      await Promise.all(works)
      return picked.map(({ id }) => id)
    }
    return { clock, world, asked, pick }
  }
  const page = (running: string, requests: number, slots = 1) =>
    `vllm:lora_requests_info{max_lora="${slots}",running_lora_adapters="${running}",waiting_lora_adapters=""} 1\nvllm:num_requests_running ${requests}\n`

  it('is of those only where a probe has seen the adapter', async () => {
    const { pick } = setting()
    const untested = backend('untested', { adapters: new Map() })
    expect(await pick([untested, backend('seen')])).toEqual(['seen'])
    expect(await pick([untested])).toEqual([])
    expect((await pick([untested, backend('seen')], null)).sort()).toEqual(['seen', 'untested'])
  })

  it('asks nobody where there is no choice, and everybody once in two seconds where there is', async () => {
    const { pick, asked, clock } = setting()
    await pick([backend('a')])
    expect(asked).toEqual([])
    const two = [backend('a'), backend('b')]
    for (let i = 0; i < 5; i++) await pick(two)
    expect(asked.sort()).toEqual([
      'http://a.test/health',
      'http://a.test/metrics',
      'http://b.test/health',
      'http://b.test/metrics',
    ])
    clock.now += KEEP_MS
    await pick(two)
    expect(asked).toHaveLength(8)
  })

  it('goes where the adapter is resident, then where a slot is free, and last to the full', async () => {
    const { pick } = setting({ full: page('x', 0), free: page('x', 3, 2), home: page('red', 9), gone: null })
    const all = ['full', 'free', 'home', 'gone'].map((id) => backend(id))
    await pick(all)
    expect(await pick(all)).toEqual(['home', 'free', 'full', 'gone'])
  })

  it('goes to the least loaded, and keeps to one where none is', async () => {
    const { pick, world } = setting({ a: page('', 4, 4), b: page('', 2, 4), c: page('', 3, 4) })
    const all = ['a', 'b', 'c'].map((id) => backend(id))
    await pick(all)
    expect(await pick(all)).toEqual(['b', 'c', 'a'])
    const even = setting()
    const [home] = await even.pick(all)
    for (let i = 0; i < 5; i++) expect((await even.pick(all))[0]).toBe(home)
    // What went from here counts before any backend has said so.
    const busy = all.find(({ id }) => id === home) as Backend
    const record = beginRequest(even.world, busy, 'blue')
    expect((await even.pick(all)).at(-1)).toBe(home)
    record.ended()
    record.ended()
    expect((await even.pick(all))[0]).toBe(home)
    expect(world.now()).toBe(even.world.now())
  })

  it('steps over one that has just failed, for ten seconds, and over one that is shut out altogether', async () => {
    const { pick, world, clock } = setting()
    const all = [backend('a'), backend('b')]
    const [home = ''] = await pick(all)
    const first = all.find(({ id }) => id === home) as Backend
    beginRequest(world, first, 'red').failed()
    beginRequest(world, backend('other'), 'red').ended()
    expect((await pick(all, null, 'x')).at(-1)).toBe(home)
    for (let i = 1; i < FAILURES_TO_OPEN; i++) beginRequest(world, first, 'red').failed()
    expect(await pick(all)).not.toContain(home)
    clock.now += 10_000
    expect(await pick(all)).toContain(home)
  })

  it('puts the draining last, even where the adapter is at home', async () => {
    const { pick } = setting({ home: page('red', 0) })
    const all = [backend('home', { draining: true }), backend('other')]
    await pick(all)
    expect(await pick(all)).toEqual(['other', 'home'])
  })
})
