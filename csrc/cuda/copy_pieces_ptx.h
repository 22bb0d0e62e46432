// Made by scripts/copy_pieces_ptx.sh from csrc/cuda/copy_pieces.cu. For every device since sm_75; the driver compiles
// it when it is first used.
#pragma once

namespace nano::cuda {

inline constexpr char kCopyPiecesPtx[] = R"ptx(
.version 7.0
.target sm_75
.address_size 64
.visible .entry nano_copy_pieces_16(
	.param .align 8 .b8 nano_copy_pieces_16_param_0[1544],
	.param .u32 nano_copy_pieces_16_param_1
)
.maxntid 1024, 1, 1
{
	.reg .pred 	%p<14>;
	.reg .b32 	%r<142>;
	.reg .b64 	%rd<47>;
	mov.b64 	%rd10, nano_copy_pieces_16_param_0;
	ld.param.u32 	%r60, [nano_copy_pieces_16_param_1];
	ld.param.u32 	%r1, [nano_copy_pieces_16_param_0+1536];
	mul.lo.s32 	%r61, %r1, %r60;
	mov.u32 	%r62, %ctaid.x;
	mov.u32 	%r63, %ntid.y;
	mov.u32 	%r64, %tid.y;
	mad.lo.s32 	%r108, %r62, %r63, %r64;
	setp.ge.u32 	%p1, %r108, %r61;
	@%p1 bra 	$L__BB0_22;
$L__BB0_1:
	div.u32 	%r65, %r108, %r60;
	mul.lo.s32 	%r66, %r65, %r60;
	sub.s32 	%r4, %r108, %r66;
	mul.wide.u32 	%rd1, %r4, 2048;
	mul.wide.u32 	%rd12, %r65, 8;
	add.s64 	%rd13, %rd10, %rd12;
	add.s64 	%rd2, %rd13, 1024;
	ld.param.u64 	%rd3, [%rd13+1024];
	setp.le.u64 	%p2, %rd3, %rd1;
	@%p2 bra 	$L__BB0_21;
	sub.s64 	%rd14, %rd3, %rd1;
	min.u64 	%rd15, %rd14, 2048;
	cvt.u32.u64 	%r67, %rd15;
	ld.param.u64 	%rd4, [%rd2+-512];
	ld.param.u64 	%rd5, [%rd2+-1024];
	shr.u32 	%r68, %r67, 4;
	mov.u32 	%r69, %tid.x;
	sub.s32 	%r5, %r68, %r69;
	setp.lt.s32 	%p3, %r5, 1;
	@%p3 bra 	$L__BB0_21;
	mul.wide.u32 	%rd46, %r69, 16;
	mov.u32 	%r125, 0;
$L__BB0_4:
	.pragma "nounroll";
	add.s64 	%rd17, %rd4, %rd1;
	add.s64 	%rd8, %rd17, %rd46;
	setp.ge.s32 	%p4, %r125, %r5;
	@%p4 bra 	$L__BB0_6;
	ld.global.cs.v4.u32 {%r129,%r128,%r127,%r126}, [%rd8];
$L__BB0_6:
	add.s32 	%r31, %r125, 32;
	setp.ge.s32 	%p5, %r31, %r5;
	@%p5 bra 	$L__BB0_8;
	add.s64 	%rd19, %rd8, 512;
	ld.global.cs.v4.u32 {%r133,%r132,%r131,%r130}, [%rd19];
$L__BB0_8:
	add.s32 	%r40, %r31, 32;
	setp.ge.s32 	%p6, %r40, %r5;
	@%p6 bra 	$L__BB0_10;
	add.s64 	%rd23, %rd8, 1024;
	ld.global.cs.v4.u32 {%r137,%r136,%r135,%r134}, [%rd23];
$L__BB0_10:
	add.s32 	%r49, %r40, 32;
	setp.ge.s32 	%p7, %r49, %r5;
	@%p7 bra 	$L__BB0_12;
	add.s64 	%rd27, %rd8, 1536;
	ld.global.cs.v4.u32 {%r141,%r140,%r139,%r138}, [%rd27];
$L__BB0_12:
	@%p4 bra 	$L__BB0_14;
	add.s64 	%rd33, %rd5, %rd1;
	add.s64 	%rd31, %rd33, %rd46;
	st.global.cs.v4.u32 [%rd31], {%r129,%r128,%r127,%r126};
$L__BB0_14:
	@%p5 bra 	$L__BB0_16;
	add.s64 	%rd36, %rd5, %rd1;
	add.s64 	%rd37, %rd36, %rd46;
	add.s64 	%rd34, %rd37, 512;
	st.global.cs.v4.u32 [%rd34], {%r133,%r132,%r131,%r130};
$L__BB0_16:
	@%p6 bra 	$L__BB0_18;
	add.s64 	%rd40, %rd5, %rd1;
	add.s64 	%rd41, %rd40, %rd46;
	add.s64 	%rd38, %rd41, 1024;
	st.global.cs.v4.u32 [%rd38], {%r137,%r136,%r135,%r134};
$L__BB0_18:
	@%p7 bra 	$L__BB0_20;
	add.s64 	%rd44, %rd5, %rd1;
	add.s64 	%rd45, %rd44, %rd46;
	add.s64 	%rd42, %rd45, 1536;
	st.global.cs.v4.u32 [%rd42], {%r141,%r140,%r139,%r138};
$L__BB0_20:
	add.s64 	%rd46, %rd46, 2048;
	add.s32 	%r125, %r49, 32;
	setp.lt.s32 	%p12, %r125, %r5;
	@%p12 bra 	$L__BB0_4;
$L__BB0_21:
	mov.u32 	%r105, %nctaid.x;
	mad.lo.s32 	%r108, %r105, %r63, %r108;
	setp.lt.u32 	%p13, %r108, %r61;
	@%p13 bra 	$L__BB0_1;
$L__BB0_22:
	ret;
}
.visible .entry nano_copy_pieces_1(
	.param .align 8 .b8 nano_copy_pieces_1_param_0[1544],
	.param .u32 nano_copy_pieces_1_param_1
)
.maxntid 1024, 1, 1
{
	.reg .pred 	%p<14>;
	.reg .b16 	%rs<38>;
	.reg .b32 	%r<40>;
	.reg .b64 	%rd<46>;
	mov.b64 	%rd10, nano_copy_pieces_1_param_0;
	ld.param.u32 	%r12, [nano_copy_pieces_1_param_1];
	ld.param.u32 	%r1, [nano_copy_pieces_1_param_0+1536];
	mul.lo.s32 	%r13, %r1, %r12;
	mov.u32 	%r14, %ctaid.x;
	mov.u32 	%r15, %ntid.y;
	mov.u32 	%r16, %tid.y;
	mad.lo.s32 	%r38, %r14, %r15, %r16;
	setp.ge.u32 	%p1, %r38, %r13;
	@%p1 bra 	$L__BB1_23;
$L__BB1_2:
	div.u32 	%r17, %r38, %r12;
	mul.lo.s32 	%r18, %r17, %r12;
	sub.s32 	%r4, %r38, %r18;
	mul.wide.u32 	%rd1, %r4, 2048;
	mul.wide.u32 	%rd12, %r17, 8;
	add.s64 	%rd13, %rd10, %rd12;
	add.s64 	%rd2, %rd13, 1024;
	ld.param.u64 	%rd3, [%rd13+1024];
	setp.le.u64 	%p2, %rd3, %rd1;
	@%p2 bra 	$L__BB1_22;
	mov.u32 	%r19, %tid.x;
	sub.s64 	%rd14, %rd3, %rd1;
	min.u64 	%rd15, %rd14, 2048;
	cvt.u32.u64 	%r20, %rd15;
	ld.param.u64 	%rd4, [%rd2+-512];
	ld.param.u64 	%rd5, [%rd2+-1024];
	sub.s32 	%r5, %r20, %r19;
	setp.lt.s32 	%p3, %r5, 1;
	@%p3 bra 	$L__BB1_22;
	cvt.u64.u32 	%rd45, %r19;
	mov.u32 	%r39, 0;
$L__BB1_5:
	.pragma "nounroll";
	add.s64 	%rd8, %rd4, %rd1;
	setp.ge.s32 	%p4, %r39, %r5;
	@%p4 bra 	$L__BB1_7;
	add.s64 	%rd17, %rd8, %rd45;
	ld.global.cs.u8 %r23, [%rd17];
	cvt.u16.u32 	%rs37, %r23;
$L__BB1_7:
	add.s32 	%r7, %r39, 32;
	setp.ge.s32 	%p5, %r7, %r5;
	@%p5 bra 	$L__BB1_9;
	add.s64 	%rd21, %rd8, %rd45;
	add.s64 	%rd18, %rd21, 32;
	ld.global.cs.u8 %r24, [%rd18];
	cvt.u16.u32 	%rs36, %r24;
$L__BB1_9:
	add.s32 	%r8, %r7, 32;
	setp.ge.s32 	%p6, %r8, %r5;
	@%p6 bra 	$L__BB1_11;
	add.s64 	%rd25, %rd8, %rd45;
	add.s64 	%rd22, %rd25, 64;
	ld.global.cs.u8 %r25, [%rd22];
	cvt.u16.u32 	%rs35, %r25;
$L__BB1_11:
	add.s32 	%r9, %r8, 32;
	setp.ge.s32 	%p7, %r9, %r5;
	@%p7 bra 	$L__BB1_13;
	add.s64 	%rd29, %rd8, %rd45;
	add.s64 	%rd26, %rd29, 96;
	ld.global.cs.u8 %r26, [%rd26];
	cvt.u16.u32 	%rs34, %r26;
$L__BB1_13:
	@%p4 bra 	$L__BB1_15;
	cvt.u32.u16 	%r28, %rs37;
	and.b32  	%r27, %r28, 255;
	add.s64 	%rd32, %rd5, %rd1;
	add.s64 	%rd30, %rd32, %rd45;
	st.global.cs.u8 [%rd30], %r27;
$L__BB1_15:
	@%p5 bra 	$L__BB1_17;
	add.s64 	%rd35, %rd5, %rd1;
	add.s64 	%rd36, %rd35, %rd45;
	add.s64 	%rd33, %rd36, 32;
	cvt.u32.u16 	%r30, %rs36;
	and.b32  	%r29, %r30, 255;
	st.global.cs.u8 [%rd33], %r29;
$L__BB1_17:
	@%p6 bra 	$L__BB1_19;
	add.s64 	%rd39, %rd5, %rd1;
	add.s64 	%rd40, %rd39, %rd45;
	add.s64 	%rd37, %rd40, 64;
	cvt.u32.u16 	%r32, %rs35;
	and.b32  	%r31, %r32, 255;
	st.global.cs.u8 [%rd37], %r31;
$L__BB1_19:
	@%p7 bra 	$L__BB1_21;
	add.s64 	%rd43, %rd5, %rd1;
	add.s64 	%rd44, %rd43, %rd45;
	add.s64 	%rd41, %rd44, 96;
	cvt.u32.u16 	%r34, %rs34;
	and.b32  	%r33, %r34, 255;
	st.global.cs.u8 [%rd41], %r33;
$L__BB1_21:
	add.s64 	%rd45, %rd45, 128;
	add.s32 	%r39, %r9, 32;
	setp.lt.s32 	%p12, %r39, %r5;
	@%p12 bra 	$L__BB1_5;
$L__BB1_22:
	mov.u32 	%r36, %nctaid.x;
	mad.lo.s32 	%r38, %r36, %r15, %r38;
	setp.lt.u32 	%p13, %r38, %r13;
	@%p13 bra 	$L__BB1_2;
$L__BB1_23:
	ret;
}
)ptx";

}  // namespace nano::cuda
