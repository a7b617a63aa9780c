// Tokenizers rebuilt from metadata: SentencePiece's own ids, and the pre-tokenizers under llama.cpp's tokens.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { describe, expect, it } from 'vitest'
import { Metadata, type MetadataValue } from '../../compiler/gguf/metadata.ts'
import { readGguf } from '../../compiler/gguf/read.ts'
import { tokenizerFiles } from '../../compiler/gguf/tokenizer/files.ts'
import { openFile } from '../../runtime/disk.ts'
import { findModel } from '../../scripts/models.ts'

const SMOLLM2 = join(import.meta.dirname, '../parity/oracle/smollm2')

interface Pieces {
  readonly tokens: readonly string[]
  readonly scores: readonly number[]
  readonly types: readonly number[]
  readonly encoded: readonly { readonly text: string; readonly ids: readonly number[] }[]
}

const json = (folder: string, file: string) => JSON.parse(readFileSync(join(folder, file), 'utf8'))

function rebuild(entries: Iterable<readonly [string, MetadataValue]>): { tokenizer: Tokenizer; config: object } {
  const files = tokenizerFiles(new Metadata('model.gguf', new Map(entries)))
  const config = JSON.parse(JSON.stringify(files.get('tokenizer_config.json')))
  return { tokenizer: new Tokenizer(JSON.parse(JSON.stringify(files.get('tokenizer.json'))), config), config }
}

describe('a SentencePiece tokenizer', () => {
  const pieces: Pieces = json(import.meta.dirname, 'sentence-pieces.json')
  const metadata: [string, MetadataValue][] = [
    ['tokenizer.ggml.model', 'llama'],
    ['tokenizer.ggml.tokens', pieces.tokens],
    ['tokenizer.ggml.scores', Float32Array.from(pieces.scores)],
    ['tokenizer.ggml.token_type', Int32Array.from(pieces.types)],
    ['tokenizer.ggml.bos_token_id', 1],
    ['tokenizer.ggml.eos_token_id', 2],
    ['tokenizer.ggml.unknown_token_id', 0],
  ]

  it('gives the ids of SentencePiece, after the first token of all', () => {
    const { tokenizer } = rebuild(metadata)
    for (const { text, ids } of pieces.encoded) expect(tokenizer.encode(text).ids, text).toEqual([1, ...ids])
  })

  it('gives the text back', () => {
    const { tokenizer } = rebuild(metadata)
    for (const { text, ids } of pieces.encoded) expect(tokenizer.decode([...ids])).toBe(text)
  })

  it('puts no first token where the file says so, and a last one where it says so', () => {
    const { tokenizer, config } = rebuild([
      ...metadata,
      ['tokenizer.ggml.add_bos_token', false],
      ['tokenizer.ggml.add_eos_token', true],
    ])
    const { text, ids } = pieces.encoded[0]!
    expect(tokenizer.encode(text).ids).toEqual([...ids, 2])
    expect(config).toMatchObject({ bos_token: '<s>', eos_token: '</s>', add_bos_token: false })
  })
})

const path = findModel('smollm2')
if (path === undefined) {
  process.stderr.write('SKIPPED: pre-tokenizers: SmolLM2 is not here; run node scripts/fetch-models.ts smollm2\n')
}

describe.skipIf(path === undefined)('the pre-tokenizer', () => {
  const oracle: Readonly<Record<string, number[][]>> = json(SMOLLM2, 'pre-tokenizers.json')
  const { texts }: { texts: readonly string[] } = json(SMOLLM2, 'inputs.json')

  it.each(Object.keys(oracle))('%s cuts as llama.cpp does', async (pre) => {
    const file = await openFile(path!)
    const { metadata } = await readGguf(file).finally(() => file.close())
    const { tokenizer } = rebuild([...metadata.entries(), ['tokenizer.ggml.pre', pre]])
    for (const [i, text] of texts.entries()) {
      // Qwen's own tokenizer composes characters first, which llama.cpp leaves out; composed, the text is one to both.
      if (pre === 'qwen2' && text !== text.normalize('NFC')) {
        expect(tokenizer.encode(text).ids).toEqual(tokenizer.encode(text.normalize('NFC')).ids)
      } else expect(tokenizer.encode(text).ids, text).toEqual(oracle[pre]![i])
    }
  })
})
