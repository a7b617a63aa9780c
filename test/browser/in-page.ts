// What the test's page runs: bundled by esbuild, called by the test as `inPage()`.
import { openInPage, openPageModel, type PageConfig } from '../../gpu-backend/browser/open.ts'

interface Prompt {
  readonly adapter: string | undefined
  readonly ids: readonly number[]
}

interface Answer {
  readonly text: string
  readonly ids: readonly number[]
}

/** All at once, so that they share steps. Greedy. */
async function answers(
  config: PageConfig,
  prompts: readonly Prompt[],
  maxTokens: number,
): Promise<{ provider: string; answers: Answer[] }> {
  const engine = await openInPage(config)
  const one = async ({ adapter, ids: promptIds }: Prompt): Promise<Answer> => {
    const ids: number[] = []
    let text = ''
    const sampling = { temperature: 0, topP: 1, seed: 0 }
    const request = { promptIds, maxTokens, sampling, stop: [], ...(adapter === undefined ? {} : { adapter }) }
    for await (const piece of engine.generate(request)) {
      ids.push(...piece.ids)
      text += piece.text
    }
    return { text, ids }
  }
  const found = await Promise.all(prompts.map(one))
  await engine.close()
  return { provider: engine.provider, answers: found }
}

/** The logits after a prompt under each adapter in turn of one batch: base first, then in the manifest's order. */
async function logits(config: PageConfig, ids: readonly number[]): Promise<number[][]> {
  const { model, bank, manifest, read, release } = await openPageModel(config)
  for (const [at, { digest }] of manifest.adapters.entries()) bank!.write(at + 1, bank!.prepare(await read(digest)))
  const slots = [0, ...manifest.adapters.map((_, at) => at + 1)]
  const rows = slots.map(() => model.open(ids.length))
  const inputs = rows.map((row, slot) => ({ row, slot, tokens: ids, logits: 'last' as const }))
  const outputs = await model.forward(inputs)
  await release()
  return outputs.map((output) => [...output.logits[0]!])
}

const page = { answers, logits }
export type InPage = typeof page
Object.assign(globalThis, { inPage: () => page })
