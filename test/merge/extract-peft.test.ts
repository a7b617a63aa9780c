// The adapter that PEFT loaded is the one that our code writes today, byte for byte.
import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { writeExtracted } from './write-extracted.ts'

const LOADED = join(import.meta.dirname, '..', 'parity', 'oracle', 'extract', 'load.txt')

it('extract writes the bytes that PEFT loaded, with the logits of the adapter that was merged', async () => {
  const scratch = await mkdtemp(join(tmpdir(), 'sidepath-test-'))
  try {
    const folder = join(scratch, 'extracted')
    await writeExtracted(folder)
    const lines = (await readFile(LOADED, 'utf8')).trim().split('\n')
    const written = ['adapter_config.json', 'adapter_model.safetensors'].map(async (name) => {
      const bytes = await readFile(join(folder, name))
      return `${name} ${createHash('sha256').update(bytes).digest('hex')}`
    })
    expect(lines.slice(2, 4)).toEqual(await Promise.all(written))
    expect(lines[4]).toMatch(
      /^loads with 0 missing and 0 unexpected tensors; .* = \d\.\de-0[5-9], merged \d\.\de-0[5-9];/,
    )
  } finally {
    await rm(scratch, { recursive: true })
  }
})
