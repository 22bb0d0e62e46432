// Made by scripts/copy_pieces_ptx.sh from csrc/cuda/copy_pieces.cu. For every device since sm_75; the driver compiles
// it when it is first used.
#pragma once

namespace nano::cuda {

inline constexpr char kCopyPiecesPtx[] = R"ptx(
.version 7.0
.target sm_75
.address_size 64
.visible .entry nano_copy_pieces(
	.param .align 8 .b8 nano_copy_pieces_param_0[3744]
)
.maxntid 1024, 1, 1
{
	.reg .pred 	%p<49>;
	.reg .b16 	%rs<54>;
	.reg .b32 	%r<296>;
	.reg .b64 	%rd<109>;
	// demoted variable
	.shared .align 8 .b8 _ZZ16nano_copy_piecesE6staged[3072];
	mov.b64 	%rd42, nano_copy_pieces_param_0;
	ld.param.u32 	%r106, [nano_copy_pieces_param_0+20];
	cvt.u64.u32 	%rd2, %r106;
	mov.u32 	%r1, %ctaid.x;
	add.s32 	%r107, %r1, 1;
	cvt.u64.u32 	%rd3, %r107;
	mul.wide.u32 	%rd4, %r106, %r107;
	mov.u32 	%r108, %nctaid.x;
	cvt.u64.u32 	%rd5, %r108;
	and.b64  	%rd43, %rd4, -4294967296;
	setp.eq.s64 	%p1, %rd43, 0;
	@%p1 bra 	$L__BB0_2;
	div.u64 	%rd99, %rd4, %rd5;
	bra.uni 	$L__BB0_3;
$L__BB0_2:
	cvt.u32.u64 	%r109, %rd5;
	cvt.u32.u64 	%r110, %rd4;
	div.u32 	%r111, %r110, %r109;
	cvt.u64.u32 	%rd99, %r111;
$L__BB0_3:
	cvt.u64.u32 	%rd44, %r1;
	mul.lo.s64 	%rd9, %rd2, %rd44;
	and.b64  	%rd45, %rd9, -4294967296;
	setp.eq.s64 	%p2, %rd45, 0;
	@%p2 bra 	$L__BB0_5;
	div.u64 	%rd100, %rd9, %rd5;
	bra.uni 	$L__BB0_6;
$L__BB0_5:
	cvt.u32.u64 	%r112, %rd5;
	cvt.u32.u64 	%r113, %rd9;
	div.u32 	%r114, %r113, %r112;
	cvt.u64.u32 	%rd100, %r114;
$L__BB0_6:
	cvt.u32.u64 	%r2, %rd99;
	mov.u32 	%r115, %tid.y;
	cvt.u32.u64 	%r116, %rd100;
	add.s32 	%r295, %r115, %r116;
	ld.param.u64 	%rd13, [%rd42];
	shl.b64 	%rd46, %rd3, 2;
	add.s64 	%rd47, %rd42, %rd46;
	ld.param.u32 	%r243, [%rd47+20];
	ld.param.u32 	%r5, [%rd47+24];
	setp.gt.u32 	%p3, %r243, %r5;
	@%p3 bra 	$L__BB0_81;
$L__BB0_8:
	add.s32 	%r117, %r5, 1;
	sub.s32 	%r118, %r117, %r243;
	min.u32 	%r8, %r118, 128;
	bar.sync 	0;
	shl.b32 	%r120, %r115, 5;
	mov.u32 	%r121, %tid.x;
	add.s32 	%r244, %r120, %r121;
	setp.ge.u32 	%p4, %r244, %r8;
	@%p4 bra 	$L__BB0_14;
	cvt.u64.u32 	%rd14, %r243;
	mov.u32 	%r126, %ntid.y;
	shl.b32 	%r10, %r126, 5;
$L__BB0_10:
	setp.eq.s64 	%p5, %rd13, 0;
	@%p5 bra 	$L__BB0_12;
	cvt.u64.u32 	%rd48, %r244;
	add.s64 	%rd49, %rd48, %rd14;
	cvta.to.global.u64 	%rd50, %rd13;
	mul.lo.s64 	%rd51, %rd49, 24;
	add.s64 	%rd52, %rd50, %rd51;
	ld.volatile.global.u64 	%rd53, [%rd52+16];
	shr.u64 	%rd54, %rd53, 32;
	ld.volatile.global.u64 	%rd101, [%rd52];
	cvt.u32.u64 	%r245, %rd53;
	cvt.u32.u64 	%r246, %rd54;
	ld.volatile.global.u64 	%rd102, [%rd52+8];
	bra.uni 	$L__BB0_13;
$L__BB0_12:
	add.s32 	%r127, %r244, %r243;
	mul.wide.u32 	%rd56, %r127, 24;
	add.s64 	%rd57, %rd42, %rd56;
	ld.param.v2.u32 	{%r245, %r246}, [%rd57+688];
	ld.param.u64 	%rd102, [%rd57+680];
	ld.param.u64 	%rd101, [%rd57+672];
$L__BB0_13:
	mov.u32 	%r130, _ZZ16nano_copy_piecesE6staged;
	mad.lo.s32 	%r131, %r244, 24, %r130;
	st.shared.u64 	[%r131], %rd101;
	st.shared.u64 	[%r131+8], %rd102;
	st.shared.v2.u32 	[%r131+16], {%r245, %r246};
	add.s32 	%r244, %r244, %r10;
	setp.lt.u32 	%p6, %r244, %r8;
	@%p6 bra 	$L__BB0_10;
$L__BB0_14:
	bar.sync 	0;
	mov.u32 	%r132, _ZZ16nano_copy_piecesE6staged;
	mad.lo.s32 	%r133, %r8, 24, %r132;
	ld.shared.v2.u32 	{%r134, %r135}, [%r133+-8];
	add.s32 	%r138, %r134, 2047;
	shr.u32 	%r139, %r138, 11;
	add.s32 	%r140, %r139, %r135;
	min.u32 	%r19, %r140, %r2;
	setp.ge.u32 	%p7, %r295, %r19;
	@%p7 bra 	$L__BB0_80;
	mov.u32 	%r251, 0;
$L__BB0_16:
	add.s32 	%r142, %r251, 1;
	setp.eq.s32 	%p8, %r142, %r8;
	@%p8 bra 	$L__BB0_20;
	mov.u32 	%r236, _ZZ16nano_copy_piecesE6staged;
	mad.lo.s32 	%r144, %r251, 24, %r236;
	ld.shared.u32 	%r145, [%r144+44];
	setp.gt.u32 	%p9, %r145, %r295;
	sub.s32 	%r146, %r8, %r251;
	setp.lt.u32 	%p10, %r146, 2;
	or.pred  	%p11, %p9, %p10;
	@%p11 bra 	$L__BB0_20;
	mov.u32 	%r249, %r8;
$L__BB0_19:
	mov.u32 	%r237, _ZZ16nano_copy_piecesE6staged;
	add.s32 	%r147, %r249, %r251;
	shr.u32 	%r148, %r147, 1;
	mad.lo.s32 	%r150, %r148, 24, %r237;
	ld.shared.u32 	%r151, [%r150+20];
	setp.le.u32 	%p12, %r151, %r295;
	selp.b32 	%r251, %r148, %r251, %p12;
	selp.b32 	%r249, %r249, %r148, %p12;
	sub.s32 	%r152, %r249, %r251;
	setp.gt.u32 	%p13, %r152, 1;
	@%p13 bra 	$L__BB0_19;
$L__BB0_20:
	mov.u32 	%r238, _ZZ16nano_copy_piecesE6staged;
	mad.lo.s32 	%r154, %r251, 24, %r238;
	ld.shared.v2.u32 	{%r155, %r156}, [%r154+16];
	sub.s32 	%r159, %r295, %r156;
	mul.wide.u32 	%rd58, %r159, 2048;
	ld.shared.u64 	%rd59, [%r154+8];
	add.s64 	%rd21, %rd58, %rd59;
	ld.shared.u64 	%rd60, [%r154];
	add.s64 	%rd22, %rd58, %rd60;
	cvt.u64.u32 	%rd61, %r155;
	sub.s64 	%rd62, %rd61, %rd58;
	min.u64 	%rd63, %rd62, 2048;
	cvt.u32.u64 	%r27, %rd63;
	or.b64  	%rd64, %rd21, %rd22;
	or.b64  	%rd23, %rd64, %rd63;
	and.b64  	%rd65, %rd23, 15;
	setp.eq.s64 	%p14, %rd65, 0;
	@%p14 bra 	$L__BB0_60;
	and.b64  	%rd66, %rd23, 3;
	setp.eq.s64 	%p15, %rd66, 0;
	@%p15 bra 	$L__BB0_41;
	mov.u32 	%r239, %tid.x;
	cvt.u64.u32 	%rd67, %r239;
	add.s64 	%rd103, %rd21, %rd67;
	add.s64 	%rd104, %rd22, %rd67;
	sub.s32 	%r28, %r27, %r239;
	setp.lt.s32 	%p16, %r28, 1;
	@%p16 bra 	$L__BB0_79;
	mov.u32 	%r252, 0;
$L__BB0_24:
	.pragma "nounroll";
	setp.ge.s32 	%p17, %r252, %r28;
	@%p17 bra 	$L__BB0_26;
	ld.global.cs.u8 %r162, [%rd103];
	cvt.u16.u32 	%rs49, %r162;
$L__BB0_26:
	add.s32 	%r30, %r252, 32;
	setp.ge.s32 	%p18, %r30, %r28;
	@%p18 bra 	$L__BB0_28;
	add.s64 	%rd69, %rd103, 32;
	ld.global.cs.u8 %r163, [%rd69];
	cvt.u16.u32 	%rs48, %r163;
$L__BB0_28:
	add.s32 	%r31, %r252, 64;
	setp.ge.s32 	%p19, %r31, %r28;
	@%p19 bra 	$L__BB0_30;
	add.s64 	%rd70, %rd103, 64;
	ld.global.cs.u8 %r164, [%rd70];
	cvt.u16.u32 	%rs47, %r164;
$L__BB0_30:
	add.s32 	%r32, %r252, 96;
	setp.ge.s32 	%p20, %r32, %r28;
	@%p20 bra 	$L__BB0_32;
	add.s64 	%rd71, %rd103, 96;
	ld.global.cs.u8 %r165, [%rd71];
	cvt.u16.u32 	%rs46, %r165;
$L__BB0_32:
	@%p17 bra 	$L__BB0_34;
	cvt.u32.u16 	%r167, %rs49;
	and.b32  	%r166, %r167, 255;
	st.global.cs.u8 [%rd104], %r166;
$L__BB0_34:
	@%p18 bra 	$L__BB0_36;
	add.s64 	%rd73, %rd104, 32;
	cvt.u32.u16 	%r169, %rs48;
	and.b32  	%r168, %r169, 255;
	st.global.cs.u8 [%rd73], %r168;
$L__BB0_36:
	@%p19 bra 	$L__BB0_38;
	add.s64 	%rd74, %rd104, 64;
	cvt.u32.u16 	%r171, %rs47;
	and.b32  	%r170, %r171, 255;
	st.global.cs.u8 [%rd74], %r170;
$L__BB0_38:
	@%p20 bra 	$L__BB0_40;
	add.s64 	%rd75, %rd104, 96;
	cvt.u32.u16 	%r173, %rs46;
	and.b32  	%r172, %r173, 255;
	st.global.cs.u8 [%rd75], %r172;
$L__BB0_40:
	add.s32 	%r252, %r252, 128;
	add.s64 	%rd103, %rd103, 128;
	add.s64 	%rd104, %rd104, 128;
	setp.lt.s32 	%p25, %r252, %r28;
	@%p25 bra 	$L__BB0_24;
	bra.uni 	$L__BB0_79;
$L__BB0_60:
	mov.u32 	%r241, %tid.x;
	mul.wide.u32 	%rd85, %r241, 16;
	add.s64 	%rd107, %rd21, %rd85;
	add.s64 	%rd108, %rd22, %rd85;
	shr.u32 	%r187, %r27, 4;
	sub.s32 	%r52, %r187, %r241;
	setp.lt.s32 	%p36, %r52, 1;
	@%p36 bra 	$L__BB0_79;
	mov.u32 	%r278, 0;
$L__BB0_62:
	.pragma "nounroll";
	setp.ge.s32 	%p37, %r278, %r52;
	@%p37 bra 	$L__BB0_64;
	ld.global.cs.v4.u32 {%r282,%r281,%r280,%r279}, [%rd107];
$L__BB0_64:
	add.s32 	%r194, %r278, 32;
	setp.ge.s32 	%p38, %r194, %r52;
	@%p38 bra 	$L__BB0_66;
	add.s64 	%rd87, %rd107, 512;
	ld.global.cs.v4.u32 {%r286,%r285,%r284,%r283}, [%rd87];
$L__BB0_66:
	add.s32 	%r199, %r278, 64;
	setp.ge.s32 	%p39, %r199, %r52;
	@%p39 bra 	$L__BB0_68;
	add.s64 	%rd88, %rd107, 1024;
	ld.global.cs.v4.u32 {%r290,%r289,%r288,%r287}, [%rd88];
$L__BB0_68:
	add.s32 	%r204, %r278, 96;
	setp.ge.s32 	%p40, %r204, %r52;
	@%p40 bra 	$L__BB0_70;
	add.s64 	%rd89, %rd107, 1536;
	ld.global.cs.v4.u32 {%r294,%r293,%r292,%r291}, [%rd89];
$L__BB0_70:
	@%p37 bra 	$L__BB0_72;
	st.global.cs.v4.u32 [%rd108], {%r282,%r281,%r280,%r279};
$L__BB0_72:
	@%p38 bra 	$L__BB0_74;
	add.s64 	%rd91, %rd108, 512;
	st.global.cs.v4.u32 [%rd91], {%r286,%r285,%r284,%r283};
$L__BB0_74:
	@%p39 bra 	$L__BB0_76;
	add.s64 	%rd92, %rd108, 1024;
	st.global.cs.v4.u32 [%rd92], {%r290,%r289,%r288,%r287};
$L__BB0_76:
	@%p40 bra 	$L__BB0_78;
	add.s64 	%rd93, %rd108, 1536;
	st.global.cs.v4.u32 [%rd93], {%r294,%r293,%r292,%r291};
$L__BB0_78:
	add.s32 	%r278, %r278, 128;
	add.s64 	%rd107, %rd107, 2048;
	add.s64 	%rd108, %rd108, 2048;
	setp.lt.s32 	%p45, %r278, %r52;
	@%p45 bra 	$L__BB0_62;
	bra.uni 	$L__BB0_79;
$L__BB0_41:
	mov.u32 	%r240, %tid.x;
	mul.wide.u32 	%rd76, %r240, 4;
	add.s64 	%rd105, %rd21, %rd76;
	add.s64 	%rd106, %rd22, %rd76;
	shr.u32 	%r175, %r27, 2;
	sub.s32 	%r34, %r175, %r240;
	setp.lt.s32 	%p26, %r34, 1;
	@%p26 bra 	$L__BB0_79;
	mov.u32 	%r257, 0;
$L__BB0_43:
	.pragma "nounroll";
	setp.ge.s32 	%p27, %r257, %r34;
	@%p27 bra 	$L__BB0_45;
	ld.global.cs.u32 %r258, [%rd105];
$L__BB0_45:
	add.s32 	%r42, %r257, 32;
	setp.ge.s32 	%p28, %r42, %r34;
	@%p28 bra 	$L__BB0_47;
	add.s64 	%rd78, %rd105, 128;
	ld.global.cs.u32 %r259, [%rd78];
$L__BB0_47:
	add.s32 	%r45, %r257, 64;
	setp.ge.s32 	%p29, %r45, %r34;
	@%p29 bra 	$L__BB0_49;
	add.s64 	%rd79, %rd105, 256;
	ld.global.cs.u32 %r260, [%rd79];
$L__BB0_49:
	add.s32 	%r48, %r257, 96;
	setp.ge.s32 	%p30, %r48, %r34;
	@%p30 bra 	$L__BB0_51;
	add.s64 	%rd80, %rd105, 384;
	ld.global.cs.u32 %r261, [%rd80];
$L__BB0_51:
	@%p27 bra 	$L__BB0_53;
	st.global.cs.u32 [%rd106], %r258;
$L__BB0_53:
	@%p28 bra 	$L__BB0_55;
	add.s64 	%rd82, %rd106, 128;
	st.global.cs.u32 [%rd82], %r259;
$L__BB0_55:
	@%p29 bra 	$L__BB0_57;
	add.s64 	%rd83, %rd106, 256;
	st.global.cs.u32 [%rd83], %r260;
$L__BB0_57:
	@%p30 bra 	$L__BB0_59;
	add.s64 	%rd84, %rd106, 384;
	st.global.cs.u32 [%rd84], %r261;
$L__BB0_59:
	add.s32 	%r257, %r257, 128;
	add.s64 	%rd105, %rd105, 512;
	add.s64 	%rd106, %rd106, 512;
	setp.lt.s32 	%p35, %r257, %r34;
	@%p35 bra 	$L__BB0_43;
$L__BB0_79:
	mov.u32 	%r228, %ntid.y;
	add.s32 	%r295, %r295, %r228;
	setp.lt.u32 	%p46, %r295, %r19;
	@%p46 bra 	$L__BB0_16;
$L__BB0_80:
	add.s32 	%r243, %r243, 128;
	setp.le.u32 	%p47, %r243, %r5;
	@%p47 bra 	$L__BB0_8;
$L__BB0_81:
	bar.sync 	0;
	shl.b32 	%r230, %r115, 5;
	mov.u32 	%r231, %tid.x;
	add.s32 	%r232, %r230, %r231;
	setp.ne.s32 	%p48, %r232, 0;
	@%p48 bra 	$L__BB0_83;
	mov.u32 	%r235, %ctaid.x;
	membar.sys;
	ld.param.u32 	%r233, [%rd42+16];
	ld.param.u64 	%rd95, [%rd42+8];
	cvta.to.global.u64 	%rd96, %rd95;
	mul.wide.u32 	%rd97, %r235, 4;
	add.s64 	%rd98, %rd96, %rd97;
	st.volatile.global.u32 	[%rd98], %r233;
$L__BB0_83:
	ret;
}
)ptx";

}  // namespace nano::cuda
