// What happens to a job when somebody or something ends it: cancel, kill -9, an orderly stop, a crash that comes back.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import { paths } from '../../jobs/contract.ts'
import { nodeHost } from '../../runtime/disk.ts'
import { memoryFolder, memoryOut } from '../compiler/folders.ts'
import { freePort } from '../e2e/running.ts'
import { type Client, clientOf, startService, TOKEN, tiny, tinyRecipe } from './service.ts'
import { slowBase } from './slow-base.ts'

const base = slowBase()
const scratch: string[] = []
afterAll(() => Promise.all(scratch.map((path) => rm(path, { recursive: true, force: true }))))

async function newFolder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'sidepath-jobs-'))
  scratch.push(path)
  return path
}

/** Resolves once the job has written a part of its artifact, and no more than a part. */
async function untilWriting(client: Client, id: string): Promise<void> {
  for await (const { data } of client.events(id)) if (data.progress?.stage === 'write weights') return
  throw new Error('the job ended before anything could be done to it')
}

const submitSlow = async (client: Client): Promise<string> => {
  const answer = await client.submit({ target: 'merged', base: await client.uploadAll(base), adapters: [] })
  return (await answer.json()).id
}

const partials = async (folder: string) => {
  const entries = await Promise.all(['blobs', 'jobs', 'artifacts'].map((name) => readdir(join(folder, name))))
  return entries.flat().filter((name) => name.endsWith('.partial'))
}

/** `sidepath compiler`, as a user starts it. */
async function spawnService(
  dataDir: string,
): Promise<{ child: ChildProcess; ended: Promise<unknown>; client: Client }> {
  const port = await freePort()
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, '../../cli/bin.js'), 'compiler', '--port', `${port}`, '--data-dir', dataDir],
    { stdio: ['ignore', 'pipe', 'ignore'], env: { ...process.env, SIDEPATH_COMPILER_TOKEN: TOKEN } },
  )
  const ended = new Promise((resolve) => child.once('close', resolve))
  await new Promise((resolve, reject) => {
    child.stdout!.once('data', resolve)
    child.once('exit', () => reject(new Error('the service did not start')))
  })
  return { child, ended, client: clientOf(`http://127.0.0.1:${port}`) }
}

describe('kill -9 in the middle of a job', () => {
  test('costs nothing but time: the next start ends with the artifact that compile gives', async () => {
    const folder = await newFolder()
    const first = await spawnService(folder)
    const id = await submitSlow(first.client)
    const next = await (await first.client.submit(await tinyRecipe(first.client, 'routed'))).json()
    await untilWriting(first.client, id)
    first.child.kill('SIGKILL')
    await first.ended
    expect(JSON.parse(await readFile(join(folder, 'jobs', `${id}.json`), 'utf8')).state).toBe('running')
    expect(await partials(folder)).toEqual([expect.stringMatching(new RegExp(`^\\.${id}\\.`))])

    // Before the second service, whose idle connections end while this thread computes.
    const direct = await compile(
      { base: memoryFolder('base', base), adapters: [], target: 'merged' },
      memoryOut(),
      nodeHost,
    )
    const second = await spawnService(folder)
    const job = await second.client.end(id)
    expect(job).toMatchObject({ state: 'done', artifact: direct.id })
    expect(await second.client.end(next.id)).toMatchObject({ state: 'done' })
    expect(await partials(folder)).toEqual([])
    expect((await second.client.submit(job.recipe)).status).toBe(200)
    second.child.kill('SIGTERM')
    expect(await second.ended).toBe(0)
  }, 60_000)

  test('is not repeated for ever where the job itself is the cause', async () => {
    const folder = await newFolder()
    const first = await startService({ dataDir: folder })
    const id = await submitSlow(first)
    await untilWriting(first, id)
    await first.close()
    const file = join(folder, 'jobs', `${id}.json`)
    const stored = JSON.parse(await readFile(file, 'utf8'))
    expect(stored).toMatchObject({ state: 'queued', attempts: 0 })
    await writeFile(file, JSON.stringify({ ...stored, state: 'running', attempts: 3 }))
    const second = await startService({ dataDir: folder })
    expect(await second.job(id)).toMatchObject({ state: 'failed', failure: { code: 'job_crashed', problems: [] } })
    expect((await second.submit(stored.recipe)).status).toBe(202)
    expect(await second.end(id)).toMatchObject({ state: 'done' })
    await second.close()
  })
})

describe('cancelling', () => {
  test('stops a running job at once and leaves nothing of it', async () => {
    const at = await startService()
    const id = await submitSlow(at)
    await untilWriting(at, id)
    const answer = await at.call('DELETE', paths.job(id))
    expect([answer.status, (await answer.json()).state]).toEqual([200, 'cancelled'])
    expect(await readdir(join(at.folder, 'artifacts'))).toEqual([])
    expect(await at.job(id)).toMatchObject({ state: 'cancelled', artifact: null, progress: null })

    const again = await at.call('POST', paths.jobs, (await at.job(id)).recipe)
    expect([again.status, (await again.json()).state]).toEqual([202, 'queued'])
    expect(await at.end(id)).toMatchObject({ state: 'done' })
    await at.close()
  })

  test('takes a waiting job out of the queue; the others run', async () => {
    const at = await startService()
    const running = await submitSlow(at)
    const waiting = await (await at.submit(await tinyRecipe(at, 'routed'))).json()
    const last = await (await at.submit(await tinyRecipe(at, 'merged'))).json()
    const events = at.events(waiting.id)
    expect((await events.next()).value).toMatchObject({ event: 'queued' })
    await at.call('DELETE', paths.job(waiting.id))
    expect((await events.next()).value).toMatchObject({ event: 'cancelled' })
    expect((await events.next()).done).toBe(true)
    await at.call('DELETE', paths.job(running))
    expect(await at.end(last.id)).toMatchObject({ state: 'done' })
    await at.close()
  })

  test('of a finished job forgets it, and its artifact with the last job that has it', async () => {
    const at = await startService()
    const recipe = { ...(await tinyRecipe(at)), adapters: [] }
    // Other bytes, the same meaning: another recipe, the same artifact.
    const copy = await at.upload(Buffer.concat([Buffer.from(' '), tiny.base['config.json']!]))
    const one = await at.end((await (await at.submit(recipe)).json()).id)
    const two = await at.end(
      (await (await at.submit({ ...recipe, base: { ...recipe.base, 'config.json': copy } })).json()).id,
    )
    expect([two.id === one.id, two.artifact]).toEqual([false, one.artifact])
    const manifest = paths.artifact(one.artifact!, 'manifest.json')
    expect((await at.call('DELETE', paths.job(one.id))).status).toBe(200)
    expect((await at.call('GET', paths.job(one.id))).status).toBe(404)
    expect((await at.call('GET', manifest)).status).toBe(200)
    expect((await at.call('DELETE', paths.job(two.id))).status).toBe(200)
    expect((await at.call('GET', manifest)).status).toBe(404)
    expect(await readdir(join(at.folder, 'artifacts'))).toEqual([])
    await at.close()
  })
})

describe('the end of the service', () => {
  test('stops the running job, ends the event streams, and leaves the job for the next start', async () => {
    const folder = await newFolder()
    const at = await startService({ dataDir: folder })
    const id = await submitSlow(at)
    await untilWriting(at, id)
    const events = at.events(id)
    await events.next()
    await at.close()
    let last: unknown
    for await (const { event } of events) last = event
    expect(last).not.toBe('done')
    expect(await partials(folder)).toEqual([])
    expect(JSON.parse(await readFile(join(folder, 'jobs', `${id}.json`), 'utf8')).state).toBe('queued')
  })

  test('a damaged artifact or a job file of somebody else is noticed at the start', async () => {
    const folder = await newFolder()
    const first = await startService({ dataDir: folder })
    const { id } = await (await first.submit(await tinyRecipe(first))).json()
    const { artifact } = await first.end(id)
    await first.close()
    await rm(join(folder, 'artifacts', artifact!, 'engine.onnx'))
    const second = await startService({ dataDir: folder })
    expect(await second.end(id)).toMatchObject({ state: 'done', artifact })
    await second.close()
    const file = join(folder, 'jobs', `${id}.json`)
    const stored = JSON.parse(await readFile(file, 'utf8'))
    stored.recipe.adapters.pop()
    await writeFile(file, JSON.stringify(stored))
    await expect(startService({ dataDir: folder })).rejects.toMatchObject({ name: 'JobsError', code: 'data_invalid' })
  })

  test('a job that runs too long is stopped and says so', async () => {
    const at = await startService({ limits: { jobTimeoutMs: 1 } })
    const id = await submitSlow(at)
    expect(await at.end(id)).toMatchObject({ state: 'failed', failure: { code: 'job_timeout' } })
    expect(await readdir(join(at.folder, 'artifacts'))).toEqual([])
    await at.close()
  })
})
