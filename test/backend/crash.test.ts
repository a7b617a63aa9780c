// The worker thread may die; whoever waits for it may not wait for ever.
import { expect, test } from 'vitest'
import { startEngine } from '../../gpu-backend/engine/client.ts'
import { defaultEngineConfig } from '../../gpu-backend/engine/request.ts'
import { requestOf } from './in-process.ts'

const WORKER = new URL('./crashing-worker.ts', import.meta.url)

test('a crash rejects what is running, the engine comes back once, and then stays down', async () => {
  const events: Record<string, unknown>[] = []
  const engine = await startEngine({ ...defaultEngineConfig, artifact: '' }, (event) => events.push(event), {
    worker: WORKER,
  })
  const texts: string[] = []
  const run = async (): Promise<void> => {
    for await (const { text } of engine.generate(requestOf({ promptIds: [1] }))) texts.push(text)
  }
  const lists = [engine.residents(), run()].map((call) => call.catch((error) => error.code))
  expect(await Promise.all(lists)).toEqual(['engine_down', 'engine_down'])
  expect(texts).toEqual(['a'])
  expect(engine.alive).toBe(false)
  while (!engine.alive) await new Promise((resolve) => setImmediate(resolve))
  await expect(run()).rejects.toMatchObject({ code: 'engine_down' })
  await expect(run()).rejects.toMatchObject({ code: 'engine_down' })
  expect(events).toEqual([
    { event: 'engine_down', exitCode: 9, restart: true },
    { event: 'engine_down', exitCode: 9, restart: false },
  ])
  await engine.close()
})

test('an artifact that cannot be opened is what the start says', async () => {
  const config = { ...defaultEngineConfig, artifact: import.meta.dirname }
  await expect(startEngine(config, () => {})).rejects.toThrow('manifest.json is missing')
})

test('a run that hangs fails its requests, and another worker takes over', async () => {
  const events: Record<string, unknown>[] = []
  const worker = new URL('./hanging-worker.ts', import.meta.url)
  const config = { ...defaultEngineConfig, artifact: '' }
  const engine = await startEngine(config, (event) => events.push(event), { worker, maxSilenceMs: 400 })
  const hung = engine.generate(requestOf({ promptIds: [1] })).next()
  await expect(hung).rejects.toMatchObject({ code: 'engine_down' })
  expect(engine.alive).toBe(false)
  while (!engine.alive) await new Promise((resolve) => setImmediate(resolve))
  expect(events).toEqual([
    { event: 'engine_hung', silentMs: 400 },
    { event: 'engine_down', exitCode: -1, restart: true },
  ])
  await engine.close()
})
