// `sidepath score`: how probable a text is under the base, an adapter, or a merged model.
import { stat } from 'node:fs/promises'
import { score } from '../gpu-backend/score.ts'
import { UserError } from './fail.ts'
import { table } from './table.ts'

export interface ScoreOptions {
  readonly artifact: string
  readonly adapter?: string
  readonly text?: string
  readonly tokenIds?: readonly number[]
  readonly json?: boolean
}

export async function scoreCommand(options: ScoreOptions): Promise<void> {
  const { artifact, adapter, text, tokenIds } = options
  if (text === undefined && tokenIds === undefined) {
    throw new UserError('score needs --text or --token-ids, e.g. --text "In the beginning".')
  }
  if (!(await stat(artifact).catch(() => undefined))?.isDirectory()) {
    throw new UserError(`--artifact "${artifact}" is not a folder; give one that compile or merge wrote.`)
  }
  const result = await score({
    artifact,
    ...(adapter === undefined ? {} : { adapter }),
    input: tokenIds === undefined ? { text: text ?? '' } : { tokenIds: [...tokenIds] },
  })
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ artifact, adapter: adapter ?? null, ...result })}\n`)
    return
  }
  const rows = result.tokens.map(({ id, text: piece, logprob }) => [
    String(id),
    JSON.stringify(piece ?? ''),
    logprob === null ? '–' : logprob.toFixed(4),
  ])
  process.stdout.write(
    `${table(['id', 'token', 'log-probability'], rows)}\n\nsum ${result.sumLogprob.toFixed(4)}, perplexity ${result.perplexity.toFixed(4)}\n`,
  )
}
