// Against llama.cpp on the same GGUF with as many threads: one stream, and eight requests for eight different adapters.
// LLAMA: a folder in which node-llama-cpp is installed. llama.cpp does not batch requests with different adapters: they
// run one after the other. Its base is timed in their place, so what its adapters cost it is in its favour.
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Row } from '../record.ts'
import { median, round } from './alternate.ts'
import { modelPath, smollm2, THREADS } from './fixture.ts'
import { ANSWER_TOKENS, ask, PROMPT_TOKENS, start } from './traffic.ts'

const CLIENTS = 8

/** What is used of node-llama-cpp. */
interface Llama {
  getLlama(options: object): Promise<{
    readonly llamaCppRelease: { readonly release: string }
    loadModel(options: object): Promise<{
      createContext(options: object): Promise<{ getSequence(): Sequence }>
      dispose(): Promise<void>
    }>
  }>
}

interface Sequence {
  clearHistory(): Promise<void>
  evaluate(tokens: readonly number[], options: object): AsyncIterable<number>
}

export async function llama(): Promise<Row[]> {
  const folder = process.env.LLAMA
  if (folder === undefined) throw new Error('LLAMA names no folder in which node-llama-cpp is installed')
  const entry = pathToFileURL(join(folder, 'node_modules/node-llama-cpp/dist/index.js')).href
  const { getLlama } = (await import(entry)) as Llama
  const runtime = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: THREADS })
  const model = await runtime.loadModel({ modelPath: modelPath() })
  const context = await model.createContext({ contextSize: 1024, threads: THREADS, flashAttention: false })
  const sequence = context.getSequence()
  const theirs = async (): Promise<number> => {
    await sequence.clearHistory()
    const prompt = Array.from({ length: PROMPT_TOKENS }, (_, at) => 300 + at)
    let made = 0
    for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
      made += 1
      if (made === ANSWER_TOKENS) break
    }
    return made
  }
  const fixture = await smollm2()
  const adapters = await Promise.all(Array.from({ length: CLIENTS }, (_, seed) => fixture.adapter(seed)))
  const engine = await start(fixture, { slots: CLIENTS, maxRows: CLIENTS })
  try {
    for (const digest of adapters) await engine.load(digest)
    const ours = () => ask(engine, null)
    const eight = async (): Promise<number> => {
      const answers = await Promise.all(adapters.map((digest) => ask(engine, digest)))
      return answers.reduce((sum, tokens) => sum + tokens)
    }
    const rates = await ratesOf({ ours, theirs, eight })
    const of = (name: string): number => median(rates.get(name))
    const compare = (what: string, mine: string, times: string): Row => ({
      what: `${what}, llama.cpp ${runtime.llamaCppRelease.release}, ${THREADS} threads, tokens a second ÷ llama.cpp's`,
      value: `${(of(mine) / of('theirs')).toFixed(2)}× (${of(mine).toFixed(0)} of ${of('theirs').toFixed(0)}${times})`,
      samples: rates.get(mine)!.map((rate, at) => round(rate / rates.get('theirs')![at]!)),
    })
    return [
      compare('SmolLM2-135M, one stream of the base', 'ours', ''),
      compare('SmolLM2-135M, 8 requests with 8 different adapters', 'eight', ', one after the other'),
    ]
  } finally {
    await engine.close()
    await model.dispose()
    await fixture.remove()
  }
}

/** Tokens a second of each, in turns. */
async function ratesOf(cases: Record<string, () => Promise<number>>): Promise<Map<string, number[]>> {
  const rates = new Map<string, number[]>(Object.keys(cases).map((name) => [name, []]))
  const times = Number(process.env.TIMES ?? 7)
  for (let at = 0; at < 1 + times; at++) {
    for (const [name, run] of Object.entries(cases)) {
      const begun = performance.now()
      const tokens = await run()
      if (at > 0) rates.get(name)!.push(round((tokens / (performance.now() - begun)) * 1000))
    }
  }
  return rates
}
