// What follows an exposure: ramps, shadows, feedback, refusals, results, guardrails, and the verdict.
import { env } from 'cloudflare:workers'
import { beforeEach, describe, expect, it } from 'vitest'
import { compareArms } from '../../gateway/experiment/compare-arms.ts'
import { isLookDue } from '../../gateway/experiment/enforce-guardrails.ts'
import { adapter, allow, BASE, base, createHouse, deny, digest, type House, seed, toTenant } from './house.ts'

const HOST = 'one.test'
let house: House
let round = 0
/** The experiment and model of this test; D1 is shared by the file. */
let name = ''
const RED = { id: 'control', weight: 5_000, adapter: 'red' }
const BLUE = { id: 'treatment', weight: 5_000, adapter: 'blue' }

const path = (more = '') => `/tenants/acme/experiments/${name}${more}`
const grant = (id: string, body: object) => house.admin('PUT', `/tenants/acme/grants/${id}`, body)
const patch = (body: object) => house.admin('PATCH', path(), body)
const results = async () => (await house.admin('GET', path('/results'))).json as unknown as Results
const rowsOf = async (table: string) =>
  (await env.DB.prepare(`SELECT * FROM ${table} WHERE experiment_id = ?`).bind(name).all()).results
const modelRow = () => env.DB.prepare("SELECT * FROM models WHERE tenant_id = 'acme' AND name = ?").bind(name).first()

interface Metric {
  readonly subjects: number
  readonly observations: number
  readonly mean: number
  readonly vsControl?: { readonly difference: number; readonly interval: number[] | null; readonly verdict: string }
}
interface Results {
  readonly status: string
  readonly sampleRatio: Record<'assigned' | 'analysed', { readonly p: number; readonly mismatch: boolean } | null>
  readonly arms: readonly {
    readonly id: string
    readonly exposed: number
    readonly analysed: number
    readonly stopped: unknown
    readonly metrics: Record<string, Metric>
  }[]
  readonly shadows: readonly { readonly id: string; readonly metrics: Record<string, Metric> }[]
}

async function begin(more: object = {}): Promise<void> {
  name = `exp-${++round}`
  await house.admin('PUT', path(), { arms: [RED, BLUE], ...more })
  await house.admin('PUT', `/tenants/acme/models/${name}`, { experiment: name })
  await patch({ status: 'running' })
}

beforeEach(async () => {
  house = await createHouse()
  await seed(house)
  await grant('red', allow(toTenant, adapter('red')))
  await grant('blue', allow(toTenant, adapter('blue')))
})

/** Keys of their own, each its own subject. */
const mintMany = (count: number) => Promise.all(Array.from({ length: count }, () => house.mint('acme')))
const textOf = async (key: string) => (await house.ask(key, name)).json.choices[0].text

/** As if so many subjects had been exposed and answered, with an outcome each by the arm that they are in. */
async function pretend(arm: string, subjects: number, each: (i: number) => { failed?: boolean; ttftMs?: number }) {
  const { id: keyId } = await house.mint('acme')
  const statements = []
  for (let i = 0; i < subjects; i++) {
    const { failed = false, ttftMs = 100 } = each(i)
    const id = `${name}-${arm}-${i}`
    statements.push(
      env.DB.prepare(
        `INSERT INTO usage (request_id, tenant_id, key_id, user_id, model, base_digest, grant_id, experiment_id, bucket_version, arm_id, receipt, status, ttft_ms, completion_tokens, created_at)
         VALUES (?, 'acme', ?, ?, ?, ?, 'red', ?, 1, ?, ?, ?, ?, 5, 1)`,
      ).bind(id, keyId, id, name, BASE, name, arm, id, failed ? 'failed' : 'settled', ttftMs),
      env.DB.prepare("INSERT INTO exposures VALUES ('acme', ?, 1, ?, ?, ?, 1, ?, 1)").bind(name, id, arm, arm, id),
    )
  }
  await env.DB.batch(statements)
}

describe('a ramp', { timeout: 30_000 }, () => {
  it('assigns those whom it covers, gives the control to the rest, and moves nobody when it is raised or taken back', async () => {
    await begin({ coverage: 3_000 })
    const keys = await mintMany(20)
    const at = async () => new Map(await Promise.all(keys.map(async ({ key }) => [key, await textOf(key)] as const)))
    await at()
    const early = await rowsOf('assignments')
    expect(early.length).toBeGreaterThan(0)
    expect(early.length).toBeLessThan(16)
    expect(await rowsOf('exposures')).toHaveLength(early.length)
    await patch({ coverage: 10_000 })
    const raised = await at()
    const late = await rowsOf('assignments')
    expect(late).toHaveLength(20)
    const armOf = new Map(late.map((row) => [row.subject, row.arm_id]))
    for (const row of early) expect(armOf.get(row.subject)).toBe(row.arm_id)
    await patch({ coverage: 0 })
    expect(await at()).toEqual(raised)
    // A newcomer is in no arm now.
    expect(await textOf((await house.mint('acme')).key)).toBe(digest('1'))
    expect(await rowsOf('assignments')).toHaveLength(20)
  })

  it('begins a new version with other weights: assignments and results start again', async () => {
    await begin({
      arms: [
        { ...RED, weight: 0 },
        { ...BLUE, weight: 10_000 },
      ],
    })
    const { key } = await house.mint('acme')
    expect(await textOf(key)).toBe(digest('2'))
    await patch({ weights: { control: 10_000, treatment: 0 } })
    expect(await textOf(key)).toBe(digest('1'))
    expect((await rowsOf('assignments')).map((row) => row.bucket_version)).toEqual([1, 2])
    expect((await results()).arms.map((arm) => arm.exposed)).toEqual([1, 0])
    for (const weights of [{ control: 10_000 }, { control: 5_000, treatment: 4_999 }, { control: 10_000, other: 0 }]) {
      expect((await house.call('PATCH', `/admin${path()}`, house.adminKey, { weights })).status).toBe(400)
    }
  })
})

describe('a shadow arm', { timeout: 30_000 }, () => {
  const shadow = { id: 'mirror', adapter: 'blue', shadow: true }
  const only = [{ ...RED, weight: 10_000 }, { ...BLUE, weight: 0 }, shadow]

  it.each([false, true])('gets a copy of each request and answers nobody; streamed: %s', async (stream) => {
    await begin({ arms: only })
    const { key } = await house.mint('acme')
    const { text } = await house.ask(key, name, { stream })
    expect(text).toContain(digest('1'))
    expect(text).not.toContain(digest('2'))
    expect(house.backend.seen.map(({ claims }) => claims.adapter).sort()).toEqual([digest('1'), digest('2')])
    expect(await rowsOf('shadows')).toMatchObject([
      { arm_id: 'mirror', status: 'settled', prompt_tokens: 7, completion_tokens: 3, refused: 0 },
    ])
    // The caller's usage knows nothing of it.
    expect((await rowsOf('usage')).map((row) => row.arm_id)).toEqual(['control'])
    const found = await results()
    expect(found.arms.map((arm) => arm.id)).toEqual(['control', 'treatment'])
    expect(found.shadows[0]?.metrics.completion_tokens).toMatchObject({ subjects: 1, observations: 1, mean: 3 })
  })

  it('that fails or hangs fails alone, and does not hold up the answer', async () => {
    const other = 'c'.repeat(64)
    await house.admin('PUT', `/bases/${other}`, {})
    await house.admin('PUT', '/backends/two', { url: 'http://two.test', base: other })
    await grant('other', allow(toTenant, { kind: 'base', digest: other }))
    await begin({ arms: [...only.slice(0, 2), { id: 'mirror', base: other, shadow: true }] })
    const { key } = await house.mint('acme')
    for (const fault of ['hang-before-first-byte', 'refuse-connection', 'not-json'] as const) {
      house.backend.fail('two.test', fault)
      expect(await textOf(key)).toBe(digest('1'))
    }
    house.backend.fail('two.test', 'hang-mid-stream')
    expect((await house.ask(key, name, { stream: true })).status).toBe(200)
    expect((await rowsOf('shadows')).map((row) => row.status)).toEqual(['failed', 'failed', 'failed', 'failed'])
    expect((await rowsOf('usage')).map((row) => row.status)).toEqual(['settled', 'settled', 'settled', 'settled'])
    expect((await results()).shadows[0]?.metrics.error).toMatchObject({ subjects: 1, observations: 4, mean: 1 })
  })

  it('is not sent what its adapter may not be used for by this caller', async () => {
    await begin({ arms: only })
    const { key } = await house.mint('acme')
    await grant('no-blue', deny(toTenant, adapter('blue')))
    expect(await textOf(key)).toBe(digest('1'))
    expect(await rowsOf('shadows')).toEqual([])
    await house.admin('DELETE', '/tenants/acme/grants/no-blue')
  })

  it('is neither the control, nor weighted, nor one of many', async () => {
    const put = (arms: object[]) => house.call('PUT', '/admin/tenants/acme/experiments/odd', house.adminKey, { arms })
    expect((await put([shadow, { ...RED, weight: 10_000 }])).status).toBe(400)
    expect((await put([RED, BLUE, { ...shadow, weight: 1 }])).status).toBe(400)
    expect((await put([RED, BLUE, ...['a', 'b', 'c'].map((id) => ({ ...shadow, id }))])).status).toBe(400)
  })
})

describe('feedback', () => {
  const say = (key: string, body: object) => house.call('POST', '/v1/feedback', key, body)

  it('is recorded once by receipt or request id, and says so when it is said again', async () => {
    await house.admin('PUT', '/tenants/acme/metrics/stars', { min: 1, max: 5 })
    await begin()
    const { key } = await house.mint('acme')
    const { headers } = await house.ask(key, name)
    const receipt = headers.get('x-sidepath-receipt')
    const first = await say(key, { receipt, metric: 'stars', value: 4 })
    expect([first.status, first.json]).toEqual([
      201,
      { request_id: headers.get('x-request-id'), metric: 'stars', value: 4 },
    ])
    const byId = { request_id: headers.get('x-request-id'), metric: 'stars', value: 4 }
    expect((await say(key, byId)).status).toBe(200)
    const other = await say(key, { receipt, metric: 'stars', value: 5 })
    expect([other.status, other.json.error.code]).toEqual([400, 'already_recorded'])
    const update = env.DB.prepare("UPDATE outcomes SET value = 1 WHERE metric = 'stars'").run()
    await expect(update).rejects.toThrow('outcomes are write-once')
    const { arms } = await results()
    expect(arms.flatMap((arm) => Object.entries(arm.metrics).filter(([id]) => id === 'stars'))).toEqual([
      ['stars', { subjects: 1, observations: 1, mean: 4 }],
    ])
  })

  it('of many at once is one row', async () => {
    await house.admin('PUT', '/tenants/acme/metrics/stars', { min: 1, max: 5 })
    const { key } = await house.mint('acme')
    const receipt = (await house.ask(key, 'red')).headers.get('x-sidepath-receipt')
    const said = await Promise.all(Array.from({ length: 6 }, () => say(key, { receipt, metric: 'stars', value: 2 })))
    expect(said.map(({ status }) => status).sort()).toEqual([200, 200, 200, 200, 200, 201])
  })

  it('is of the own tenant only, of known requests and metrics, within the bounds', async () => {
    await house.admin('PUT', '/tenants/acme/metrics/stars', { min: 1, max: 5 })
    await house.admin('PUT', '/tenants/zeta/metrics/stars', { min: 1, max: 5 })
    const { key } = await house.mint('acme')
    const stranger = await house.mint('zeta')
    const receipt = (await house.ask(key, 'red')).headers.get('x-sidepath-receipt')
    const good = { receipt, metric: 'stars', value: 1 }
    const codeOf = async (by: string, body: object) => {
      const { status, json } = await say(by, body)
      return [status, json.error?.code]
    }
    expect(await codeOf(stranger.key, good)).toEqual([404, 'not_found'])
    expect(await codeOf(key, { ...good, receipt: 'e'.repeat(32) })).toEqual([404, 'not_found'])
    expect(await codeOf(key, { ...good, metric: 'unheard' })).toEqual([400, 'unknown_metric'])
    for (const value of [0.99, 5.01, -1, 'x', null]) {
      expect(await codeOf(key, { ...good, value })).toEqual([400, 'invalid_value'])
    }
    expect(await codeOf(key, { ...good, more: 1 })).toEqual([400, expect.any(String)])
    house.clock.now += 91 * 86_400_000
    expect(await codeOf(key, good)).toEqual([404, 'not_found'])
  })

  it('has metrics whose names are no rule, and whose bounds stay', async () => {
    const put = (id: string, body: object) =>
      house.call('PUT', `/admin/tenants/acme/metrics/${id}`, house.adminKey, body)
    expect((await put('ttft', {})).json.error.code).toBe('already_exists')
    expect((await put('tone', { min: 2, max: 1 })).status).toBe(400)
    expect((await put('tone', { max: 3 })).status).toBe(201)
    expect((await put('tone', { max: 3 })).status).toBe(200)
    expect((await put('tone', { max: 4 })).json.error.code).toBe('immutable')
  })
})

describe('results', () => {
  it('count subjects, not requests, and only what the own arm answered', async () => {
    await begin({ coverage: 0 })
    const [one, two] = await mintMany(2)
    if (!one || !two) throw new Error('no keys')
    // Served the control before the ramp: no outcome of any arm.
    await textOf(one.key)
    house.clock.now += 1
    await patch({ coverage: 10_000 })
    for (let i = 0; i < 3; i++) await textOf(one.key)
    await textOf(two.key)
    const { arms } = await results()
    expect(arms.reduce((sum, arm) => sum + arm.exposed, 0)).toBe(2)
    const tokens = arms.flatMap((arm) => arm.metrics.completion_tokens ?? [])
    expect(tokens.reduce((sum, { subjects }) => sum + subjects, 0)).toBe(2)
    expect(tokens.reduce((sum, { observations }) => sum + observations, 0)).toBe(4)
    expect(arms.flatMap((arm) => arm.metrics.error ?? []).every(({ mean }) => mean === 0)).toBe(true)
  })

  it('leave out whoever was served another arm than his own', async () => {
    await begin({
      arms: [
        { ...RED, weight: 0 },
        { ...BLUE, weight: 10_000 },
      ],
    })
    const { key } = await house.mint('acme')
    await textOf(key)
    expect((await results()).arms[1]).toMatchObject({ exposed: 1, analysed: 1 })
    await grant('no-blue', deny(toTenant, adapter('blue')))
    await textOf(key)
    await house.admin('DELETE', '/tenants/acme/grants/no-blue')
    expect((await results()).arms[1]).toMatchObject({ exposed: 1, analysed: 0, metrics: {} })
  })

  it('count a refusal by how the answer begins, in a whole answer and in a stream', async () => {
    await begin()
    const { key } = await house.mint('acme')
    const answer = "I'm sorry, but I can't help with that."
    house.backend.say(answer)
    await house.ask(key, name)
    await house.ask(key, name, { stream: true })
    house.backend.say('Certainly: I cannot be happier.')
    await house.ask(key, name)
    await house.ask(key, name, { stream: true })
    const refusals = (await results()).arms.flatMap((arm) => arm.metrics.refusal ?? [])
    expect(refusals).toMatchObject([{ subjects: 1, observations: 4, mean: 0.5 }])
  })

  it('give the interval that the formula gives, and the verdict that it allows', async () => {
    await begin()
    await pretend('control', 60, (i) => ({ ttftMs: 100 + (i % 7) }))
    await pretend('treatment', 60, (i) => ({ ttftMs: 200 + (i % 5) }))
    const { arms, sampleRatio } = await results()
    const sums = (values: number[]) => ({
      subjects: values.length,
      s: values.reduce((a, b) => a + b, 0),
      n: values.length,
      ss: values.reduce((a, b) => a + b * b, 0),
      sn: values.reduce((a, b) => a + b, 0),
      nn: values.length,
    })
    const sixty = (from: number, period: number) => Array.from({ length: 60 }, (_, i) => from + (i % period))
    const expected = compareArms(sums(sixty(100, 7)), sums(sixty(200, 5)))
    expect(arms[1]?.metrics.ttft?.vsControl).toMatchObject({ ...expected, verdict: 'worse' })
    expect(arms[1]?.metrics.completion_tokens?.vsControl).toMatchObject({ difference: 0, verdict: 'open' })
    expect(sampleRatio.assigned).toMatchObject({ mismatch: false })
  })

  it('raise the alarm where the arms do not get their shares', async () => {
    await begin()
    await pretend('control', 300, () => ({}))
    await pretend('treatment', 100, () => ({}))
    const { sampleRatio } = await results()
    expect(sampleRatio.assigned?.mismatch).toBe(true)
    expect(sampleRatio.analysed?.mismatch).toBe(true)
  })

  it('look at the 5,000th subject too, in the middle of a day, and take back nothing that it said', async () => {
    await begin()
    const expose = (arm: string, from: number, subjects: number, at: number) =>
      env.DB.prepare(
        `INSERT INTO exposures
         WITH RECURSIVE n(i) AS (SELECT ?3 UNION ALL SELECT i + 1 FROM n WHERE i < ?3 + ?4 - 1)
         SELECT 'acme', ?1, 1, printf('%064d', i), ?2, ?2, 1, ?1 || i, ?5 FROM n`,
      ).bind(name, arm, from, subjects, at)
    await env.DB.batch([expose('control', 0, 2_580, 1), expose('treatment', 10_000, 2_420, 1)])
    // A day that ends even, by which time it might be forgotten.
    await env.DB.batch([expose('control', 20_000, 220, 2), expose('treatment', 30_000, 380, 2)])
    const { sampleRatio } = await results()
    expect(sampleRatio.assigned).toMatchObject({ mismatch: true })
    expect(sampleRatio.analysed).toEqual(sampleRatio.assigned)
    expect(sampleRatio.assigned?.p).toBeGreaterThan(0.03)
  })
})

describe('a guardrail', { timeout: 60_000 }, () => {
  const guardrails = [{ metric: 'error', margin: 0.1 }]
  const look = async () => (await house.admin('POST', path('/guardrails'), {})).json as unknown as { stopped: object[] }

  it('stops an arm that is worse beyond its margin: its subjects get the control and leave the analysis', async () => {
    await begin({
      guardrails,
      arms: [
        { ...RED, weight: 0 },
        { ...BLUE, weight: 10_000 },
      ],
    })
    const { key } = await house.mint('acme')
    expect(await textOf(key)).toBe(digest('2'))
    await pretend('control', 100, (i) => ({ failed: i % 20 === 0 }))
    await pretend('treatment', 100, (i) => ({ failed: i % 4 !== 0 }))
    expect((await look()).stopped).toMatchObject([{ arm: 'treatment', metric: 'error', margin: 0.1 }])
    expect(await textOf(key)).toBe(digest('1'))
    const { arms } = await results()
    expect(arms[1]).toMatchObject({ analysed: 0, metrics: {}, stopped: { by: { metric: 'error' } } })
    expect((await rowsOf('exposures')).filter((row) => row.analysed === 0)).toHaveLength(1)
    const [audited] = (await house.admin('GET', '/audit?limit=1')).json.data
    expect(audited).toMatchObject({ action: 'experiment.stop-arm', resource: `acme/${name}/treatment` })
    expect(await look()).toEqual({ stopped: [] })
    const promoted = await house.call('POST', `/admin${path('/promote')}`, house.adminKey, { arm: 'treatment' })
    expect(promoted.json.error.code).toBe('arm_stopped')
  })

  it('leaves an arm alone that is worse by less than its margin, or of which too little is known', async () => {
    await begin({
      guardrails: [
        { metric: 'error', margin: 0.5 },
        { metric: 'ttft', margin: 1_000 },
      ],
    })
    await pretend('control', 100, (i) => ({ failed: i % 4 === 0 }))
    await pretend('treatment', 100, (i) => ({ failed: i % 2 === 0, ttftMs: 900 }))
    expect(await look()).toEqual({ stopped: [] })
    await begin({ guardrails })
    await pretend('control', 100, () => ({}))
    await pretend('treatment', 20, () => ({ failed: true }))
    expect(await look()).toEqual({ stopped: [] })
  })

  it('is looked at by requests too, by chance of their id, also where they fail', async () => {
    await begin({
      guardrails,
      arms: [
        { ...RED, weight: 0 },
        { ...BLUE, weight: 10_000 },
      ],
    })
    await pretend('control', 100, () => ({}))
    await pretend('treatment', 100, () => ({ failed: true }))
    const { key } = await house.mint('acme')
    house.backend.fail(HOST, 'refuse-connection')
    for (let due = false; !due; ) due = isLookDue((await house.ask(key, name)).headers.get('x-request-id') ?? '')
    house.backend.fail(HOST, 'none')
    const { arms } = await results()
    expect(arms[1]?.stopped).toMatchObject({ by: { metric: 'error' } })
    expect((await house.admin('GET', '/audit?limit=1')).json.data[0]).toMatchObject({ actor: 'guardrail' })
  })

  it('of two that stop an arm at once leaves one record', async () => {
    await begin({ guardrails })
    await pretend('control', 100, () => ({}))
    await pretend('treatment', 100, () => ({ failed: true }))
    await Promise.all([look(), look(), look()])
    const { data } = (await house.admin('GET', '/audit?limit=100')).json
    expect(data.filter((row) => row.resource === `acme/${name}/treatment`)).toHaveLength(1)
  })
})

describe('a verdict', () => {
  const promote = (arm: string) => house.admin('POST', path('/promote'), { arm })

  it('points every model of the experiment at the winner and stops it, and is taken back in one call', async () => {
    await begin()
    await house.admin('PUT', `/tenants/acme/models/${name}-too`, { experiment: name })
    const { key } = await house.mint('acme')
    expect((await promote('treatment')).json).toMatchObject({
      status: 'stopped',
      verdict: { arm: 'treatment', models: [name, `${name}-too`] },
    })
    expect(await modelRow()).toMatchObject({ adapter_id: 'blue', experiment_id: null })
    expect(await textOf(key)).toBe(digest('2'))
    // Somebody has moved the other one on; it stays where it was put.
    await house.admin('PUT', `/tenants/acme/models/${name}-too`, { base: BASE })
    expect((await house.admin('POST', path('/roll-back'), {})).json).toMatchObject({
      verdict: { arm: 'control', models: [name] },
    })
    expect(await textOf(key)).toBe(digest('1'))
    const { data } = (await house.admin('GET', '/audit?limit=100')).json
    expect(data.filter((row) => row.resource === `acme/${name}`).map((row) => row.action)).toEqual([
      'experiment.roll-back',
      'experiment.promote',
      'experiment.patch',
      'model.put',
      'experiment.put',
    ])
  })

  it('of two at once is one: the other changes nothing and is not audited', async () => {
    await begin()
    const answers = await Promise.all(
      ['treatment', 'control'].map((arm) => house.call('POST', `/admin${path('/promote')}`, house.adminKey, { arm })),
    )
    const won = answers.filter(({ status }) => status === 200)
    const { data } = (await house.admin('GET', '/audit?limit=100')).json
    const audited = data.filter((row) => row.resource === `acme/${name}` && row.action === 'experiment.promote')
    expect(audited).toHaveLength(won.length)
    const row = await modelRow()
    const experiment = (await house.admin('GET', path())).json as unknown as { verdict: { arm: string } }
    expect(row?.adapter_id).toBe(experiment.verdict.arm === 'control' ? 'red' : 'blue')
    for (const { status, json } of answers) if (status !== 200) expect(json.error.code).toBe('changed_meanwhile')
  })

  it('may go to the bare base', async () => {
    await begin({ arms: [RED, { id: 'treatment', weight: 5_000, base: BASE }] })
    await grant('base', allow(toTenant, base))
    await promote('treatment')
    expect(await textOf((await house.mint('acme')).key)).toBe('base')
    await house.admin('DELETE', '/tenants/acme/grants/base')
  })

  it('is given by a key of the tenant that may promote the winner and the control, and by no other', async () => {
    await begin()
    const { id, key } = await house.mint('acme')
    const give = (by: string, what: string, body: object) =>
      house.call('POST', `/v1/experiments/${name}/${what}`, by, body)
    const may = (target: string) =>
      grant(`promote-${target}`, allow({ kind: 'key', id }, adapter(target), { actions: ['promote'] }))
    const unknown = await house.call('POST', '/v1/experiments/none/promote', key, { arm: 'treatment' })
    expect((await give(key, 'promote', { arm: 'treatment' })).text).toBe(unknown.text)
    await may('blue')
    expect((await give(key, 'promote', { arm: 'treatment' })).status).toBe(404)
    await may('red')
    expect((await give((await house.mint('zeta')).key, 'promote', { arm: 'treatment' })).status).toBe(404)
    expect((await modelRow())?.experiment_id).toBe(name)
    expect((await give(key, 'promote', { arm: 'treatment' })).status).toBe(200)
    expect((await modelRow())?.adapter_id).toBe('blue')
    expect((await house.admin('GET', '/audit?limit=1')).json.data[0]).toMatchObject({ actor: id })
    expect((await give(key, 'roll-back', {})).status).toBe(200)
    expect((await modelRow())?.adapter_id).toBe('red')
  })
})
