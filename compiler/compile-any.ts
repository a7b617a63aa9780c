// Compiles whatever the folder of the base holds: a decoder, or an encoder.
import { type Compiled, type CompileInput, compile, type Progress } from './compile.ts'
import type { EncoderManifest } from './contract.ts'
import { compileEncoder } from './encoder/compile.ts'
import { encoderFamily } from './encoder/config.ts'
import type { Host, OutFolder } from './host.ts'
import type { OpenLanes } from './merge/matrix.ts'

/** As `compile`. */
export async function compileAny(
  input: CompileInput,
  out: OutFolder,
  host: Host,
  onProgress: (progress: Progress) => void = () => {},
  lanes?: OpenLanes,
): Promise<Compiled | { readonly id: string; readonly manifest: EncoderManifest }> {
  const isDecoder = (await encoderFamily(input.base)) === undefined
  return isDecoder ? compile(input, out, host, onProgress, lanes) : compileEncoder(input, out, host, onProgress)
}
