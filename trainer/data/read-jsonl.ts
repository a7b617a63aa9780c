// A file of lines → examples. Every bad line is named by file and line, and skipped or refused as asked.
import { inputError, Problems } from '../../compiler/errors.ts'
import type { ByteSource } from '../../compiler/host.ts'
import { countTargets, type Example } from './example.ts'
import { LineError, type LineOptions, parseLine } from './examples.ts'
import type { TrainingText } from './text.ts'

/** Read whole lines at a time; a line is one example, and one of 16 MB is none. */
const CHUNK_BYTES = 4 * 1024 * 1024
const MAX_LINE_BYTES = 16 * 1024 * 1024
/** Held in memory as tokens. Fine-tuning sets have some 10,000 examples, the largest some millions. */
const MAX_EXAMPLES = 5_000_000
/** Skipped lines that are remembered by name. */
const MAX_NAMED = 20

export interface ReadOptions extends LineOptions {
  readonly badLines: 'skip' | 'refuse'
  /** Ids from here on are none of the base's. */
  readonly vocabSize: number
}

export interface ReadData {
  readonly examples: readonly Example[]
  /** How many lines were left out, and the first of them with their reasons. */
  readonly skipped: number
  readonly reasons: readonly string[]
}

/** Throws `InputError` (`train-data`), with every bad line unless those are skipped. */
export async function readJsonl(source: ByteSource, text: TrainingText, options: ReadOptions): Promise<ReadData> {
  const examples: Example[] = []
  const problems = new Problems()
  const reasons: string[] = []
  let skipped = 0
  let number = 0
  for await (const line of linesOf(source)) {
    number += 1
    if (typeof line === 'string' && line.trim() === '') continue
    try {
      if (typeof line !== 'string') throw line
      const found = parseLine(line, text, options)
      for (const example of found) check(example, options.vocabSize)
      examples.push(...found)
    } catch (error) {
      if (!(error instanceof LineError)) throw error
      const sentence = `${source.name}:${number}: the line ${error.message}`
      if (options.badLines === 'refuse') problems.add('train-data', sentence)
      skipped += 1
      if (reasons.length < MAX_NAMED) reasons.push(sentence)
    }
    if (examples.length > MAX_EXAMPLES) {
      throw inputError('train-data', `${source.name}: more than ${MAX_EXAMPLES} examples; train on a part of them`)
    }
  }
  problems.throwIfAny()
  if (examples.length === 0) {
    throw inputError(
      'train-data',
      `${source.name}: no examples in ${number} lines; give JSONL with messages, prompt and completion, or text`,
    )
  }
  return { examples, skipped, reasons }
}

function check(example: Example, vocabSize: number): void {
  const bad = example.ids.find((id) => id >= vocabSize)
  if (bad !== undefined) {
    throw new LineError(`has the token ${bad}, but the base has ${vocabSize}; its tokenizer is of another base`)
  }
  if (countTargets([example]) === 0) throw new LineError('has nothing to learn: no token of it is to be predicted')
}

/** A line that cannot be read is an error in its place, so that those after it keep their numbers. */
async function* linesOf(source: ByteSource): AsyncGenerator<string | LineError> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: false })
  const decode = (bytes: Uint8Array): string | LineError => {
    if (bytes.length > MAX_LINE_BYTES)
      return new LineError(`has ${bytes.length} bytes; at most ${MAX_LINE_BYTES} are read`)
    try {
      return decoder.decode(bytes)
    } catch {
      return new LineError('is not UTF-8; save the file again')
    }
  }
  let rest: Uint8Array[] = []
  let held = 0
  const take = (last: Uint8Array): Uint8Array => {
    const whole = new Uint8Array(held + last.length)
    let at = 0
    for (const part of [...rest, last]) {
      whole.set(part, at)
      at += part.length
    }
    rest = []
    held = 0
    return whole
  }
  for (let at = 0; at < source.size; at += CHUNK_BYTES) {
    const chunk = await source.read(at, Math.min(CHUNK_BYTES, source.size - at))
    let from = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      yield decode(take(chunk.subarray(from, end)))
      from = end + 1
    }
    const part = chunk.subarray(from)
    // Beyond the limit only the length still counts.
    rest.push(held > MAX_LINE_BYTES ? part.subarray(0, 1) : part)
    held += rest.at(-1)?.length ?? 0
  }
  if (held > 0) yield decode(take(new Uint8Array()))
}
