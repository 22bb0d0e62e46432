// Made by scripts/copy_pieces_ptx.sh from csrc/cuda/copy_pieces.cu. For every device since sm_75; the driver compiles
// it when it is first used.
#pragma once

namespace nano::cuda {

inline constexpr char kCopyPiecesPtx[] = R"ptx(
.version 7.0
.target sm_75
.address_size 64
.visible .entry nano_copy_pieces(
	.param .align 8 .b8 nano_copy_pieces_param_0[3096]
)
.maxntid 1024, 1, 1
{
	.reg .pred 	%p<43>;
	.reg .b16 	%rs<38>;
	.reg .b32 	%r<235>;
	.reg .b64 	%rd<101>;
	mov.b64 	%rd36, nano_copy_pieces_param_0;
	ld.param.u32 	%r186, [nano_copy_pieces_param_0+3076];
	mul.wide.u32 	%rd37, %r186, 4;
	add.s64 	%rd38, %rd36, %rd37;
	ld.param.u32 	%r91, [%rd38+2560];
	cvt.u64.u32 	%rd2, %r91;
	mov.u32 	%r2, %ctaid.x;
	add.s32 	%r92, %r2, 1;
	mul.wide.u32 	%rd3, %r91, %r92;
	mov.u32 	%r93, %nctaid.x;
	cvt.u64.u32 	%rd4, %r93;
	and.b64  	%rd39, %rd3, -4294967296;
	setp.eq.s64 	%p1, %rd39, 0;
	@%p1 bra 	$L__BB0_2;
	div.u64 	%rd94, %rd3, %rd4;
	bra.uni 	$L__BB0_3;
$L__BB0_2:
	cvt.u32.u64 	%r94, %rd4;
	cvt.u32.u64 	%r95, %rd3;
	div.u32 	%r96, %r95, %r94;
	cvt.u64.u32 	%rd94, %r96;
$L__BB0_3:
	cvt.u32.u64 	%r3, %rd94;
	cvt.u64.u32 	%rd40, %r2;
	mul.lo.s64 	%rd8, %rd2, %rd40;
	and.b64  	%rd41, %rd8, -4294967296;
	setp.eq.s64 	%p2, %rd41, 0;
	@%p2 bra 	$L__BB0_5;
	div.u64 	%rd95, %rd8, %rd4;
	bra.uni 	$L__BB0_6;
$L__BB0_5:
	cvt.u32.u64 	%r97, %rd4;
	cvt.u32.u64 	%r98, %rd8;
	div.u32 	%r99, %r98, %r97;
	cvt.u64.u32 	%rd95, %r99;
$L__BB0_6:
	mov.u32 	%r101, %tid.y;
	cvt.u32.u64 	%r102, %rd95;
	add.s32 	%r190, %r101, %r102;
	setp.lt.u32 	%p3, %r186, 2;
	mov.u32 	%r188, 0;
	@%p3 bra 	$L__BB0_9;
	mov.u32 	%r188, 0;
$L__BB0_8:
	add.s32 	%r104, %r186, %r188;
	shr.u32 	%r105, %r104, 1;
	mul.wide.u32 	%rd42, %r105, 4;
	add.s64 	%rd43, %rd36, %rd42;
	ld.param.u32 	%r106, [%rd43+2560];
	setp.le.u32 	%p4, %r106, %r190;
	selp.b32 	%r188, %r105, %r188, %p4;
	selp.b32 	%r186, %r186, %r105, %p4;
	sub.s32 	%r107, %r186, %r188;
	setp.gt.u32 	%p5, %r107, 1;
	@%p5 bra 	$L__BB0_8;
$L__BB0_9:
	setp.ge.u32 	%p6, %r190, %r3;
	@%p6 bra 	$L__BB0_73;
$L__BB0_11:
	mov.u32 	%r191, %r188;
$L__BB0_12:
	mov.u32 	%r188, %r191;
	add.s32 	%r191, %r188, 1;
	mul.wide.u32 	%rd45, %r191, 4;
	add.s64 	%rd46, %rd36, %rd45;
	ld.param.u32 	%r108, [%rd46+2560];
	setp.ge.u32 	%p7, %r190, %r108;
	@%p7 bra 	$L__BB0_12;
	mul.wide.u32 	%rd48, %r188, 4;
	add.s64 	%rd49, %rd36, %rd48;
	ld.param.u32 	%r109, [%rd49+2560];
	sub.s32 	%r110, %r190, %r109;
	mul.wide.u32 	%rd50, %r110, 2048;
	ld.param.u32 	%rd51, [%rd49+2048];
	sub.s64 	%rd52, %rd51, %rd50;
	mul.wide.u32 	%rd53, %r188, 8;
	add.s64 	%rd54, %rd36, %rd53;
	ld.param.u64 	%rd55, [%rd54+1024];
	add.s64 	%rd12, %rd50, %rd55;
	ld.param.u64 	%rd56, [%rd54];
	add.s64 	%rd13, %rd56, %rd50;
	min.u64 	%rd57, %rd52, 2048;
	cvt.u32.u64 	%r14, %rd57;
	or.b64  	%rd58, %rd12, %rd13;
	or.b64  	%rd14, %rd58, %rd57;
	and.b64  	%rd59, %rd14, 15;
	setp.eq.s64 	%p8, %rd59, 0;
	@%p8 bra 	$L__BB0_53;
	and.b64  	%rd60, %rd14, 3;
	setp.eq.s64 	%p9, %rd60, 0;
	@%p9 bra 	$L__BB0_34;
	mov.u32 	%r111, %tid.x;
	sub.s32 	%r15, %r14, %r111;
	setp.lt.s32 	%p10, %r15, 1;
	@%p10 bra 	$L__BB0_72;
	add.s64 	%rd15, %rd12, 96;
	add.s64 	%rd16, %rd12, 64;
	add.s64 	%rd17, %rd12, 32;
	add.s64 	%rd18, %rd13, 96;
	add.s64 	%rd19, %rd13, 64;
	add.s64 	%rd20, %rd13, 32;
	cvt.u64.u32 	%rd96, %r111;
	mov.u32 	%r192, 0;
$L__BB0_17:
	.pragma "nounroll";
	setp.ge.s32 	%p11, %r192, %r15;
	@%p11 bra 	$L__BB0_19;
	add.s64 	%rd61, %rd12, %rd96;
	ld.global.cs.u8 %r114, [%rd61];
	cvt.u16.u32 	%rs37, %r114;
$L__BB0_19:
	add.s32 	%r17, %r192, 32;
	setp.ge.s32 	%p12, %r17, %r15;
	@%p12 bra 	$L__BB0_21;
	add.s64 	%rd62, %rd17, %rd96;
	ld.global.cs.u8 %r115, [%rd62];
	cvt.u16.u32 	%rs36, %r115;
$L__BB0_21:
	add.s32 	%r18, %r17, 32;
	setp.ge.s32 	%p13, %r18, %r15;
	@%p13 bra 	$L__BB0_23;
	add.s64 	%rd63, %rd16, %rd96;
	ld.global.cs.u8 %r116, [%rd63];
	cvt.u16.u32 	%rs35, %r116;
$L__BB0_23:
	add.s32 	%r19, %r18, 32;
	setp.ge.s32 	%p14, %r19, %r15;
	@%p14 bra 	$L__BB0_25;
	add.s64 	%rd64, %rd15, %rd96;
	ld.global.cs.u8 %r117, [%rd64];
	cvt.u16.u32 	%rs34, %r117;
$L__BB0_25:
	@%p11 bra 	$L__BB0_27;
	cvt.u32.u16 	%r119, %rs37;
	and.b32  	%r118, %r119, 255;
	add.s64 	%rd65, %rd13, %rd96;
	st.global.cs.u8 [%rd65], %r118;
$L__BB0_27:
	@%p12 bra 	$L__BB0_29;
	add.s64 	%rd66, %rd20, %rd96;
	cvt.u32.u16 	%r121, %rs36;
	and.b32  	%r120, %r121, 255;
	st.global.cs.u8 [%rd66], %r120;
$L__BB0_29:
	@%p13 bra 	$L__BB0_31;
	add.s64 	%rd67, %rd19, %rd96;
	cvt.u32.u16 	%r123, %rs35;
	and.b32  	%r122, %r123, 255;
	st.global.cs.u8 [%rd67], %r122;
$L__BB0_31:
	@%p14 bra 	$L__BB0_33;
	add.s64 	%rd68, %rd18, %rd96;
	cvt.u32.u16 	%r125, %rs34;
	and.b32  	%r124, %r125, 255;
	st.global.cs.u8 [%rd68], %r124;
$L__BB0_33:
	add.s64 	%rd96, %rd96, 128;
	add.s32 	%r192, %r19, 32;
	setp.lt.s32 	%p19, %r192, %r15;
	@%p19 bra 	$L__BB0_17;
	bra.uni 	$L__BB0_72;
$L__BB0_53:
	mov.u32 	%r138, %tid.x;
	mul.wide.u32 	%rd78, %r138, 16;
	add.s64 	%rd99, %rd12, %rd78;
	add.s64 	%rd100, %rd13, %rd78;
	shr.u32 	%r139, %r14, 4;
	sub.s32 	%r39, %r139, %r138;
	setp.lt.s32 	%p30, %r39, 1;
	@%p30 bra 	$L__BB0_72;
	mov.u32 	%r218, 0;
$L__BB0_55:
	.pragma "nounroll";
	setp.ge.s32 	%p31, %r218, %r39;
	@%p31 bra 	$L__BB0_57;
	ld.global.cs.v4.u32 {%r222,%r221,%r220,%r219}, [%rd99];
$L__BB0_57:
	add.s32 	%r146, %r218, 32;
	setp.ge.s32 	%p32, %r146, %r39;
	@%p32 bra 	$L__BB0_59;
	add.s64 	%rd80, %rd99, 512;
	ld.global.cs.v4.u32 {%r226,%r225,%r224,%r223}, [%rd80];
$L__BB0_59:
	add.s32 	%r151, %r218, 64;
	setp.ge.s32 	%p33, %r151, %r39;
	@%p33 bra 	$L__BB0_61;
	add.s64 	%rd81, %rd99, 1024;
	ld.global.cs.v4.u32 {%r230,%r229,%r228,%r227}, [%rd81];
$L__BB0_61:
	add.s32 	%r156, %r218, 96;
	setp.ge.s32 	%p34, %r156, %r39;
	@%p34 bra 	$L__BB0_63;
	add.s64 	%rd82, %rd99, 1536;
	ld.global.cs.v4.u32 {%r234,%r233,%r232,%r231}, [%rd82];
$L__BB0_63:
	@%p31 bra 	$L__BB0_65;
	st.global.cs.v4.u32 [%rd100], {%r222,%r221,%r220,%r219};
$L__BB0_65:
	@%p32 bra 	$L__BB0_67;
	add.s64 	%rd84, %rd100, 512;
	st.global.cs.v4.u32 [%rd84], {%r226,%r225,%r224,%r223};
$L__BB0_67:
	@%p33 bra 	$L__BB0_69;
	add.s64 	%rd85, %rd100, 1024;
	st.global.cs.v4.u32 [%rd85], {%r230,%r229,%r228,%r227};
$L__BB0_69:
	@%p34 bra 	$L__BB0_71;
	add.s64 	%rd86, %rd100, 1536;
	st.global.cs.v4.u32 [%rd86], {%r234,%r233,%r232,%r231};
$L__BB0_71:
	add.s32 	%r218, %r218, 128;
	add.s64 	%rd99, %rd99, 2048;
	add.s64 	%rd100, %rd100, 2048;
	setp.lt.s32 	%p39, %r218, %r39;
	@%p39 bra 	$L__BB0_55;
	bra.uni 	$L__BB0_72;
$L__BB0_34:
	mov.u32 	%r126, %tid.x;
	mul.wide.u32 	%rd69, %r126, 4;
	add.s64 	%rd97, %rd12, %rd69;
	add.s64 	%rd98, %rd13, %rd69;
	shr.u32 	%r127, %r14, 2;
	sub.s32 	%r21, %r127, %r126;
	setp.lt.s32 	%p20, %r21, 1;
	@%p20 bra 	$L__BB0_72;
	mov.u32 	%r197, 0;
$L__BB0_36:
	.pragma "nounroll";
	setp.ge.s32 	%p21, %r197, %r21;
	@%p21 bra 	$L__BB0_38;
	ld.global.cs.u32 %r198, [%rd97];
$L__BB0_38:
	add.s32 	%r29, %r197, 32;
	setp.ge.s32 	%p22, %r29, %r21;
	@%p22 bra 	$L__BB0_40;
	add.s64 	%rd71, %rd97, 128;
	ld.global.cs.u32 %r199, [%rd71];
$L__BB0_40:
	add.s32 	%r32, %r197, 64;
	setp.ge.s32 	%p23, %r32, %r21;
	@%p23 bra 	$L__BB0_42;
	add.s64 	%rd72, %rd97, 256;
	ld.global.cs.u32 %r200, [%rd72];
$L__BB0_42:
	add.s32 	%r35, %r197, 96;
	setp.ge.s32 	%p24, %r35, %r21;
	@%p24 bra 	$L__BB0_44;
	add.s64 	%rd73, %rd97, 384;
	ld.global.cs.u32 %r201, [%rd73];
$L__BB0_44:
	@%p21 bra 	$L__BB0_46;
	st.global.cs.u32 [%rd98], %r198;
$L__BB0_46:
	@%p22 bra 	$L__BB0_48;
	add.s64 	%rd75, %rd98, 128;
	st.global.cs.u32 [%rd75], %r199;
$L__BB0_48:
	@%p23 bra 	$L__BB0_50;
	add.s64 	%rd76, %rd98, 256;
	st.global.cs.u32 [%rd76], %r200;
$L__BB0_50:
	@%p24 bra 	$L__BB0_52;
	add.s64 	%rd77, %rd98, 384;
	st.global.cs.u32 [%rd77], %r201;
$L__BB0_52:
	add.s32 	%r197, %r197, 128;
	add.s64 	%rd97, %rd97, 512;
	add.s64 	%rd98, %rd98, 512;
	setp.lt.s32 	%p29, %r197, %r21;
	@%p29 bra 	$L__BB0_36;
$L__BB0_72:
	mov.u32 	%r180, %ntid.y;
	add.s32 	%r190, %r190, %r180;
	setp.lt.u32 	%p40, %r190, %r3;
	@%p40 bra 	$L__BB0_11;
$L__BB0_73:
	ld.param.u64 	%rd88, [%rd36+3088];
	setp.eq.s64 	%p41, %rd88, 0;
	@%p41 bra 	$L__BB0_76;
	bar.sync 	0;
	mov.u32 	%r182, %tid.x;
	or.b32  	%r183, %r101, %r182;
	setp.ne.s32 	%p42, %r183, 0;
	@%p42 bra 	$L__BB0_76;
	membar.sys;
	ld.param.u32 	%r184, [%rd36+3080];
	ld.param.u64 	%rd90, [%rd36+3088];
	cvta.to.global.u64 	%rd91, %rd90;
	mul.wide.u32 	%rd92, %r2, 4;
	add.s64 	%rd93, %rd91, %rd92;
	st.volatile.global.u32 	[%rd93], %r184;
$L__BB0_76:
	ret;
}
)ptx";

}  // namespace nano::cuda
