// Property tests run on a fixed seed, so that a red run means a change and not luck; SIDEPATH_FUZZ_SEED explores others.
import fc from 'fast-check'
import { FUZZ_SEED } from './compiler/random.ts'

fc.configureGlobal({ seed: FUZZ_SEED })
