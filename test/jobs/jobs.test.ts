// Jobs over HTTP: from uploads to an artifact that is the one which `compile` gives, once per recipe.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import {
  AdapterName as CompilerAdapterName,
  Digest as CompilerDigest,
  ManifestSchema,
} from '../../compiler/contract.ts'
import { AdapterName, Digest, Job, JobSummary, paths } from '../../jobs/contract.ts'
import { nodeHost } from '../../runtime/disk.ts'
import { memoryFolder, memoryOut } from '../compiler/folders.ts'
import { type Event, sha256, startService, type TestService, tiny, tinyRecipe } from './service.ts'
import { slowBase } from './slow-base.ts'

let at: TestService
beforeAll(async () => {
  at = await startService()
})
afterAll(() => at.close())

async function compileDirectly(target: 'routed' | 'merged') {
  const adapters = [
    { name: 'b', folder: memoryFolder('b', tiny.b), weight: target === 'merged' ? 0.5 : 1 },
    { name: 'a', folder: memoryFolder('a', tiny.a) },
  ]
  const out = memoryOut()
  const { id } = await compile({ base: memoryFolder('base', tiny.base), adapters, target }, out, nodeHost)
  return { id, files: out.files }
}

describe('a whole run', () => {
  test.each(['routed', 'merged'] as const)('%s: every file is the one that compile writes', async (target) => {
    const answer = await at.submit(await tinyRecipe(at, target))
    expect(answer.status).toBe(202)
    const queued = Job.parse(await answer.json())
    expect(queued).toMatchObject({ state: 'queued', target, artifact: null })
    const job = Job.parse(await at.end(queued.id))
    const direct = await compileDirectly(target)
    expect(job).toMatchObject({ state: 'done', artifact: direct.id, failure: null, progress: null })
    for (const [path, bytes] of direct.files) {
      const file = await at.call('GET', paths.artifact(direct.id, path))
      expect([path, file.status, file.headers.get('content-length')]).toEqual([path, 200, `${bytes.length}`])
      expect([path, sha256(new Uint8Array(await file.arrayBuffer()))]).toEqual([path, sha256(bytes)])
    }
  })

  test('a merge names its parents by the digests that they have when they are routed', async () => {
    const digests = async (target: 'routed' | 'merged') => {
      const { artifact } = await at.end((await (await at.submit(await tinyRecipe(at, target))).json()).id)
      const manifest = await (await at.call('GET', paths.artifact(artifact!, 'manifest.json'))).text()
      return ManifestSchema.parse(JSON.parse(manifest)).adapters.map(({ name, digest }) => [name, digest])
    }
    expect(await digests('merged')).toEqual(await digests('routed'))
  })

  test('events tell the states in order, progress that only grows, and end', async () => {
    const base = await at.uploadAll(slowBase())
    const { id } = await (await at.submit({ target: 'merged', base, adapters: [] })).json()
    const seen: Event[] = []
    for await (const event of at.events(id)) seen.push(event)
    const names = seen.map(({ event }) => event)
    expect(names.at(-1)).toBe('done')
    expect(names.filter((name) => name !== 'progress' && name !== 'queued')).toEqual(['running', 'done'])
    const order = ['queued', 'running', 'progress', 'done']
    expect(names.toSorted((a, b) => order.indexOf(a) - order.indexOf(b))).toEqual(names)
    for (const { data } of seen) JobSummary.parse(data)
    for (const stage of ['read base', 'write weights']) {
      const bytes = seen.flatMap(({ data: { progress } }) => (progress?.stage === stage ? progress.doneBytes : []))
      expect([stage, bytes.length > 1]).toEqual([stage, true])
      expect(bytes.toSorted((a, b) => a - b)).toEqual(bytes)
    }
    const again: string[] = []
    for await (const { event } of at.events(id)) again.push(event)
    expect(again).toEqual(['done'])
  })

  test('a reader who leaves the events disturbs nobody', async () => {
    const { id } = await (await at.submit({ ...(await tinyRecipe(at)), adapters: [] })).json()
    for await (const _ of at.events(id)) break
    expect(await at.end(id)).toMatchObject({ state: 'done' })
  })

  test('a part of a file can be had, and what lies outside it cannot', async () => {
    const { id } = await (await at.submit(await tinyRecipe(at))).json()
    const { artifact } = await at.end(id)
    const path = paths.artifact(artifact!, 'model.onnx_data')
    const whole = new Uint8Array(await (await at.call('GET', path)).arrayBuffer())
    for (const [range, from, to] of [
      ['bytes=0-9', 0, 10],
      ['bytes=100-', 100, whole.length],
      ['bytes=-7', whole.length - 7, whole.length],
      [`bytes=5-${whole.length + 50}`, 5, whole.length],
    ] as const) {
      const part = await at.call('GET', path, undefined, { range })
      expect([range, part.status]).toEqual([range, 206])
      expect(part.headers.get('content-range')).toBe(`bytes ${from}-${to - 1}/${whole.length}`)
      expect(new Uint8Array(await part.arrayBuffer())).toEqual(whole.slice(from, to))
    }
    const outside = await at.call('GET', path, undefined, { range: `bytes=${whole.length}-` })
    expect([outside.status, (await outside.json()).error.code]).toEqual([416, 'range_invalid'])
    const head = await at.call('HEAD', path)
    expect([head.status, head.headers.get('content-length')]).toEqual([200, `${whole.length}`])
  })
})

describe('one recipe is one job', () => {
  test('asked twice, in another order and spelling, it runs once', async () => {
    const recipe = await tinyRecipe(at, 'routed')
    const first = await (await at.submit(recipe)).json()
    const reversed = { adapters: [...recipe.adapters].reverse(), base: recipe.base, target: recipe.target }
    const withoutWeights = { ...reversed, adapters: reversed.adapters.map(({ name, files }) => ({ files, name })) }
    for (const same of [recipe, reversed, withoutWeights]) {
      const answer = await at.submit(same)
      expect(answer.status).toBe(200)
      expect((await answer.json()).id).toBe(first.id)
    }
    const weighted = structuredClone(recipe)
    weighted.adapters[1]!.weight = 0.25
    expect((await (await at.submit(weighted)).json()).id).not.toBe(first.id)
  })

  test('the list has each job once, newest first, without its recipe', async () => {
    const { data } = await (await at.call('GET', paths.jobs)).json()
    const jobs = data.map((job: unknown) => JobSummary.parse(job)) as JobSummary[]
    expect(new Set(jobs.map(({ id }) => id)).size).toBe(jobs.length)
    const times = jobs.map(({ queuedAt }) => queuedAt)
    expect(times.toSorted((a, b) => b - a)).toEqual(times)
    const page = await at.call('GET', `${paths.jobs}?limit=1&before=${times[0]}`)
    expect((await page.json()).data.map(({ id }: JobSummary) => id)).toEqual([jobs[1]!.id])
  })

  test('a blob that is there is not sent again', async () => {
    const bytes = new TextEncoder().encode('a file of its own')
    const path = paths.blob(sha256(bytes))
    expect((await at.call('HEAD', path)).status).toBe(404)
    expect((await at.call('PUT', path, bytes)).status).toBe(201)
    expect((await at.call('PUT', path, bytes)).status).toBe(200)
    expect((await at.call('HEAD', path)).status).toBe(200)
    expect(await (await at.call('GET', path)).json()).toEqual({ sha256: sha256(bytes), bytes: bytes.length })
    expect((await at.call('DELETE', path)).status).toBe(200)
    expect((await at.call('HEAD', path)).status).toBe(404)
  })
})

test('the contract takes the names that the compiler takes', () => {
  for (const [ours, theirs] of [
    [AdapterName, CompilerAdapterName],
    [Digest, CompilerDigest],
  ] as const) {
    expect(ours.def.checks?.map((check) => check._zod.def)).toEqual(theirs.def.checks?.map((check) => check._zod.def))
  }
})
