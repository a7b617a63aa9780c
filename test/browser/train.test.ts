// The page that trains, in a real browser: its curve beside the CPU's, its checkpoints, its adapter in compiler and engine.
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type Browser, chromium } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bundlePages } from '../../cli/console/bundle-pages.ts'
import type { Served } from '../../cli/gateway/serve-app.ts'
import type { Manifest } from '../../compiler/contract.ts'
import { score } from '../../gpu-backend/score.ts'
import { paths } from '../../jobs/contract.ts'
import { openFile, openFolder } from '../../runtime/disk.ts'
import { type Job, openJob } from '../../trainer/browser/job.ts'
import type { Settings } from '../../trainer/browser/settings.ts'
import { startService, type TestService, TOKEN } from '../jobs/service.ts'
import { trainInProcess } from '../trainer/train-in-process.ts'
import { CHROMIUM_FLAGS, chromiumPath, sayMissing } from './chromium.ts'
import { type Fields, openTrainPage, startConsole } from './train-page.ts'

const run = promisify(execFile)
const CLI = join(import.meta.dirname, '../../cli/bin.js')
const DEMO = join(import.meta.dirname, '../../examples/demo')
const BASE = join(DEMO, 'base')
/** Of a loss, relative: page against CPU, step by step, and the adapter's in the engine against the page's own. */
const TOLERANCE = 1e-3
/** A device in software compiles each shader for seconds on a machine that is busy. */
const SLOW_MS = 480_000
/** 502 and 897 kB when this was written: schemas and the plot; schemas, tokenizer, templates, trainer, runtime. */
const MAX_BUNDLE_BYTES = { 'train.js': 550_000, 'worker.js': 950_000 }

if (chromiumPath === undefined) sayMissing('test/browser/train.test.ts: no chromium; run scripts/install-chromium.sh')

test('the scripts of the page have nothing of Node in them, and are small', async () => {
  const scripts = await bundlePages()
  for (const [name, limit] of Object.entries(MAX_BUNDLE_BYTES)) {
    const bytes = scripts.get(name)!
    expect(bytes.length).toBeLessThan(limit)
    expect(new TextDecoder().decode(bytes)).not.toMatch(/from\s*"node:|require\("(node:|fs|path|crypto)/)
  }
})

const TASK: Fields = {
  steps: '8',
  learningRate: '0.003',
  seed: '5',
  provider: 'wasm',
  threads: '1',
  heldOutShare: '0.02',
}
/** In software a step takes seconds; one held-out example has the forward graph run too. */
const TASK_ON_DEVICE: Fields = {
  ...TASK,
  steps: '2',
  batchSize: '1',
  targetModules: 'q_proj,v_proj',
  heldOutShare: '0.005',
  provider: 'webgpu',
}
/** Steps of some tens of milliseconds, a checkpoint every third. */
const SHORT: Fields = {
  ...TASK,
  steps: '20',
  saveEvery: '3',
  batchSize: '1',
  r: '3',
  targetModules: 'q_proj,v_proj',
  dropout: '0.1',
  heldOutShare: '0.005',
}

describe.skipIf(chromiumPath === undefined)('the page that trains', () => {
  let folder: string
  let data: string
  let compiler: TestService
  let served: Served
  let browser: Browser

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sidepath-page-'))
    data = join(folder, 'clauses.jsonl')
    const lines = (await readFile(join(DEMO, 'heldout.jsonl'), 'utf8')).trim().split('\n')
    const examples = lines.map((line) => {
      const { prompt, clauses } = JSON.parse(line) as { prompt: string; clauses: string }
      const messages = [
        { role: 'user', content: prompt },
        { role: 'assistant', content: clauses },
      ]
      return `${JSON.stringify({ messages })}\n`
    })
    await writeFile(data, examples.join(''))
    const huge = join(folder, 'huge')
    await writeHuge(huge)
    compiler = await startService()
    const access = { url: compiler.url, token: TOKEN }
    served = await startConsole([`demo=${BASE}`, `huge=${huge}`], access)
    browser = await chromium.launch({ executablePath: chromiumPath!, args: CHROMIUM_FLAGS })
  }, SLOW_MS)
  afterAll(async () => {
    await browser?.close()
    await served?.close()
    await compiler?.close()
    await rm(folder, { recursive: true, force: true })
  })
  const open = (query = '') => openTrainPage(browser, `${served.url}/train${query}`, SLOW_MS)

  /** The same run by the CPU, of the very settings that the page has kept. */
  async function onCpu(settings: Settings, name: string): Promise<{ job: Job; losses: Losses }> {
    const file = await openFile(data, 'clauses.jsonl')
    const job = await openJob(openFolder(BASE), file, settings)
    await file.close()
    const out = join(folder, `cpu ${name}`)
    await trainInProcess(BASE, 'demo', job.options, job.examples, job.heldOut, out)
    return { job, losses: lossesOf(await readFile(join(out, 'metrics.jsonl'), 'utf8')) }
  }

  /** `sidepath compile` on the download as it is. */
  async function compiled(files: ReadonlyMap<string, Buffer>, name: string): Promise<string> {
    expect([...files.keys()]).toEqual(['adapter_config.json', 'adapter_model.safetensors'])
    const adapter = await mkdtemp(join(folder, 'adapter-'))
    for (const [file, bytes] of files) await writeFile(join(adapter, file), bytes)
    const artifact = join(folder, `artifact ${name}`)
    const more = ['--out', artifact, '--json']
    await run(process.execPath, [CLI, 'compile', '--base', BASE, '--adapter', `mine=${adapter}`, ...more])
    return artifact
  }

  for (const [name, fields] of [
    ['wasm', TASK],
    [
      'wasm in two threads, on a base in int4',
      { ...TASK, threads: '2', steps: '3', precision: 'int4', batchSize: '2' },
    ],
    ['webgpu', TASK_ON_DEVICE],
  ] as const) {
    const isFloat = !('precision' in fields)
    test(`${name}: learns as the CPU does${isFloat ? ', and its adapter scores the same in the engine' : ''}`, {
      timeout: SLOW_MS,
    }, async () => {
      const { page, complaints, fill, plan, train, finish, kept, download, close } = await open()
      await fill(fields, data)
      expect(await plan()).toMatch(name === 'webgpu' ? /runs onWebGPU on .*swiftshader/i : /runs onWebAssembly/)
      await train()
      await finish()
      const found = lossesOf(String(await kept('metrics.jsonl')))
      const { settings } = JSON.parse(String(await kept('request.json'))) as { settings: Settings }
      const expected = await onCpu(settings, name)
      expect(found.train).toHaveLength(Number(fields.steps))
      near(found.train, expected.losses.train)
      near(found.held, expected.losses.held)
      expect(found.train.at(-1)).toBeLessThan(found.train[0]! * (fields === TASK ? 0.5 : 1))
      const files = await download()
      expect(files.get('adapter_model.safetensors')).toEqual(await kept('adapter/adapter_model.safetensors'))
      // What the engine runs is the base in float32; trained on int4, the adapter sees another base there.
      if (isFloat) {
        const artifact = await compiled(files, name)
        near([await lossInEngine(artifact, expected.job)], [found.held.at(-1)!])
      }
      expect(await page.locator('#run-plot').getAttribute('alt')).toContain(`${fields.steps} steps`)
      expect(complaints).toEqual([])
      await close()
    })
  }

  describe('a run that the page was left in the middle of', () => {
    let whole: Map<string, Buffer>
    let state: Buffer
    let metrics: Losses
    beforeAll(async () => {
      const { fill, train, finish, kept, download, close } = await open()
      await fill(SHORT, data)
      await train()
      await finish()
      whole = await download()
      state = await kept('checkpoint.safetensors')
      metrics = lossesOf(String(await kept('metrics.jsonl')))
      await close()
    }, SLOW_MS)

    test('goes on by itself after a reload, to the same bytes', { timeout: SLOW_MS }, async () => {
      const { page, complaints, fill, train, reach, finish, kept, download, close } = await open()
      await fill(SHORT, data)
      await train()
      expect(await reach(5)).toBeLessThan(20)
      await page.reload()
      await page.waitForSelector('#run[data-state=begins], #run[data-state=trains]')
      await finish()
      expect(await download()).toEqual(whole)
      expect(await kept('checkpoint.safetensors')).toEqual(state)
      expect(lossesOf(String(await kept('metrics.jsonl')))).toEqual(metrics)
      expect(complaints).toEqual([])
      await close()
    })

    test('does so too where IndexedDB keeps it', { timeout: SLOW_MS }, async () => {
      const { page, fill, train, reach, finish, download, close } = await open('?store=indexeddb')
      await fill(SHORT, data)
      await train()
      expect(await reach(5)).toBeLessThan(20)
      await page.reload()
      await page.waitForSelector('#run[data-state=begins], #run[data-state=trains]')
      await finish()
      expect(await download()).toEqual(whole)
      expect(await page.evaluate('navigator.storage.getDirectory().then((d) => d.keys().next())')).toEqual({
        done: true,
      })
      await close()
    })

    test('and one that was stopped waits, and goes on when told', { timeout: SLOW_MS }, async () => {
      const { page, fill, train, reach, step, finish, download, close } = await open()
      await fill(SHORT, data)
      await train()
      await reach(2)
      await page.click('#stop')
      await page.waitForSelector('#run[data-state=paused]')
      const stopped = await step()
      expect(stopped).toBeLessThan(20)
      await page.reload()
      await page.click('#runs-list button')
      await page.waitForSelector('#run[data-state=paused]')
      expect(await step()).toBe(stopped)
      await page.click('#go-on')
      await finish()
      expect(await download()).toEqual(whole)
      await close()
    })

    test('is published to a compiler, which makes of it what `sidepath compile` does', {
      timeout: SLOW_MS,
    }, async () => {
      const { page, fill, train, finish, download, close } = await open()
      await fill({ ...SHORT, steps: '1' }, data)
      await train()
      await finish()
      await page.fill('#publish-name', 'mine')
      await page.click('#publish-button')
      const said = page.locator('#publish-state', { hasText: 'Compiled beside its base' })
      const [, id = ''] = /artifacts\/([0-9a-f]{64})\/manifest\.json/.exec((await said.textContent()) ?? '') ?? []
      const answer = await compiler.call('GET', paths.artifact(id, 'manifest.json'))
      const artifact = await compiled(await download(), 'published')
      expect(await answer.json()).toEqual(
        JSON.parse(await readFile(join(artifact, 'manifest.json'), 'utf8')) as Manifest,
      )
      await close()
    })
  })

  test('a bad line is named by file and line, and nothing can be trained', { timeout: SLOW_MS }, async () => {
    const { page, fill, plan, close } = await open()
    const bad = join(folder, 'bad.jsonl')
    await writeFile(bad, `${(await readFile(data, 'utf8')).split('\n')[0]}\n{"messages": 3}\n{"text": "a b c"}\nno\n`)
    await fill(TASK, bad)
    expect(await plan()).toMatch(/bad\.jsonl:2: the line .*bad\.jsonl:4: the line is not JSON/s)
    expect(await page.isDisabled('#train')).toBe(true)
    await close()
  })

  test('a base that does not fit is refused before anything of it is read', { timeout: SLOW_MS }, async () => {
    const { page, fill, plan, close } = await open()
    const asked: string[] = []
    page.on('request', (request) => asked.push(request.url()))
    await fill({ ...TASK, base: 'huge' }, data)
    expect(await plan()).toMatch(/the base takes [\d,]+ MiB as it would be held, and a page trains at most 820 MiB/)
    expect(await page.isDisabled('#train')).toBe(true)
    await page.selectOption('[name=precision]', 'int4')
    await page.waitForSelector('#train:enabled')
    expect(asked.filter((url) => url.endsWith('.safetensors'))).toEqual([])
    await close()
  })

  test('options out of bounds are said in sentences, all of them', { timeout: SLOW_MS }, async () => {
    const { fill, plan, close } = await open()
    await fill({ ...TASK, batchSize: '0', learningRate: '7', maxLength: '9999' }, data)
    expect(await plan()).toMatch(
      /the learning rate is 7; .*the batch size is 0; .*the longest example is 9999; give a whole number from 2 to 512/s,
    )
    await close()
  })

  test('without WebGPU it says that it trains on the CPU', { timeout: SLOW_MS }, async () => {
    const plain = await chromium.launch({ executablePath: chromiumPath!, args: ['--no-sandbox', '--disable-gpu'] })
    const { fill, plan, close } = await openTrainPage(plain, `${served.url}/train`, SLOW_MS)
    await fill({ ...TASK, provider: 'webgpu' }, data)
    expect(await plan()).toContain('no WebGPU here, so it trains with WebAssembly on the CPU')
    await close()
    await plain.close()
  })
})

interface Losses {
  readonly train: readonly number[]
  readonly held: readonly number[]
}

function lossesOf(metrics: string): Losses {
  const lines = metrics
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, number>)
  return {
    train: lines.flatMap(({ loss }) => loss ?? []),
    held: lines.flatMap(({ heldOutLoss }) => heldOutLoss ?? []),
  }
}

function near(found: readonly number[], expected: readonly number[]): void {
  expect(found).toHaveLength(expected.length)
  expect(expected.length).toBeGreaterThan(0)
  for (const [at, value] of expected.entries()) {
    expect(Math.abs(found[at]! - value) / value).toBeLessThan(TOLERANCE)
  }
}

/** Mean over the held-out targets, by the routed graph of the artifact on onnxruntime-node. */
async function lossInEngine(artifact: string, { heldOut }: Job): Promise<number> {
  let [sum, count] = [0, 0]
  for (const { ids, isTarget } of heldOut) {
    const { tokens } = await score({ artifact, adapter: 'mine', input: { tokenIds: ids }, threads: 1 })
    for (const [at, { logprob }] of tokens.entries()) {
      if (!isTarget[at]) continue
      sum -= logprob!
      count += 1
    }
  }
  return sum / count
}

/** The demo's tokenizer and config beside the sizes of a larger model: what a plan reads. */
async function writeHuge(path: string): Promise<void> {
  const { mkdir, cp } = await import('node:fs/promises')
  await mkdir(path)
  await cp(join(BASE, 'tokenizer.json'), join(path, 'tokenizer.json'))
  await cp(join(BASE, 'tokenizer_config.json'), join(path, 'tokenizer_config.json'))
  const config = JSON.parse(await readFile(join(BASE, 'config.json'), 'utf8')) as object
  const sizes = {
    hidden_size: 2048,
    intermediate_size: 8192,
    num_hidden_layers: 10,
    num_attention_heads: 32,
    head_dim: 64,
  }
  await writeFile(join(path, 'config.json'), JSON.stringify({ ...config, ...sizes, num_key_value_heads: 8 }))
  await writeFile(join(path, 'model.safetensors'), 'never read')
}
